//! Types with only the fields of a kind that are read.

/// Implements [`kube::Resource`] for a type with the metadata of a kind, in the field `metadata` or the last argument.
#[macro_export]
macro_rules! projected {
    ($type:ty, $scope:ident, $kind:literal, $group:expr, $version:expr, $plural:literal) => {
        $crate::projected!($type, $scope, $kind, $group, $version, $plural, metadata);
    };
    ($type:ty, $scope:ident, $kind:literal, $group:expr, $version:expr, $plural:literal, $($metadata:ident).+) => {
        impl ::kube::Resource for $type {
            type DynamicType = ();
            type Scope = ::k8s_openapi::$scope;

            fn kind((): &()) -> ::std::borrow::Cow<'_, str> {
                $kind.into()
            }
            fn group((): &()) -> ::std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> ::std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> ::std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &::kube::core::ObjectMeta {
                &self.$($metadata).+
            }
            fn meta_mut(&mut self) -> &mut ::kube::core::ObjectMeta {
                &mut self.$($metadata).+
            }
        }
    };
}

/// Implements [`serde::Serialize`] for such a type, as kube's API requires: only the metadata, because the object is
/// patched, never written whole.
#[macro_export]
macro_rules! serialize_metadata {
    ($type:ty) => {
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                ::serde::Serialize::serialize(&self.metadata, serializer)
            }
        }
    };
}
