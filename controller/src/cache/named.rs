//! What every stored object says of itself by its metadata.

/// Methods that read the metadata at that place of a type.
macro_rules! named {
    ($type:ty, $($metadata:ident).+) => {
        impl $type {
            /// Name.
            pub fn name(&self) -> &str {
                self.$($metadata).+.name.as_deref().unwrap_or_default()
            }

            /// Namespace.
            pub fn namespace(&self) -> &str {
                self.$($metadata).+.namespace.as_deref().unwrap_or_default()
            }

            /// UID.
            pub fn uid(&self) -> &str {
                self.$($metadata).+.uid.as_deref().unwrap_or_default()
            }

            /// Whether it is being deleted.
            pub fn is_deleting(&self) -> bool {
                self.$($metadata).+.deletion_timestamp.is_some()
            }

            /// An annotation's text.
            pub fn annotation(&self, key: &str) -> Option<&str> {
                self.$($metadata).+.annotations.as_ref()?.get(key).map(String::as_str)
            }
        }
    };
}

pub(super) use named;
