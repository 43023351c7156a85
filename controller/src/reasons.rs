//! Reasons of conditions: closed lists, with the texts that are part of the API.

/// An enum of reasons, each with its text.
macro_rules! reasons {
    ($(#[$of_enum:meta])* pub enum $Reason:ident { $($(#[$of_reason:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$of_enum])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $Reason {
            $($(#[$of_reason])* $name,)*
        }

        impl $Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The text in `reason`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}
