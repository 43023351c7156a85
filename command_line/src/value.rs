//! Values in Go's syntax.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use machinist_shared::api::duration;

/// An optional duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptionalDuration(pub Option<Duration>);

/// Parses Go's durations (`25m`, `1h30m`, `90s`); the empty string is `None`.
pub fn duration(text: &str) -> Result<OptionalDuration, String> {
    duration::parse(text).map(OptionalDuration)
}

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonzeroDuration(pub Duration);

/// Parses a duration above zero.
pub fn nonzero_duration(text: &str) -> Result<NonzeroDuration, String> {
    match duration(text)?.0 {
        Some(duration) if !duration.is_zero() => Ok(NonzeroDuration(duration)),
        _ => Err("must be more than zero".to_owned()),
    }
}

/// Parses a boolean like Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is not true or false")),
    }
}

/// Parses `host:port` like Go programs: `:port` is every address, IPv4 and IPv6, and `localhost` is 127.0.0.1.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let host = match text.rsplit_once(':') {
        Some(("", _)) => Ipv6Addr::UNSPECIFIED.into(),
        Some(("localhost", _)) => Ipv4Addr::LOCALHOST.into(),
        _ => {
            return text.parse().map_err(|_| {
                format!("{text:?} is not an address like 0.0.0.0:9876, localhost:9876 or :9876")
            });
        }
    };
    let port = text.rsplit(':').next().unwrap_or_default();
    let port = port.parse().map_err(|_| format!("{text:?} has no port number"))?;
    Ok(SocketAddr::new(host, port))
}

/// Like [`address`]; after a trailing colon, the port is `port`.
pub fn address_with_port(text: &str, port: u16) -> Result<SocketAddr, String> {
    if text.ends_with(':') {
        address(&format!("{text}{port}"))
    } else {
        address(text)
    }
}

/// An optional namespaced name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionalName(pub Option<ObjectName>);

/// A namespaced name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Parses `namespace/name`; the empty string is `None`.
pub fn object_name(text: &str) -> Result<OptionalName, String> {
    if text.is_empty() {
        return Ok(OptionalName(None));
    }
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(OptionalName(Some(ObjectName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })))
        }
        _ => Err(format!("{text:?} is not like namespace/name")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(":9876", Ok("[::]:9876"))]
    #[case("127.0.0.1:0", Ok("127.0.0.1:0"))]
    #[case("[::1]:1", Ok("[::1]:1"))]
    #[case("localhost:1", Ok("127.0.0.1:1"))]
    #[case("example.com:1", Err(()))]
    #[case("localhost", Err(()))]
    #[case(":http", Err(()))]
    #[case("localhost:http", Err(()))]
    #[case("127.0.0.1:", Err(()))]
    fn addresses_are_read_as_go_programs_take_them(#[case] text: &str, #[case] want: Result<&str, ()>) {
        assert_eq!(
            address(text).map(|a| a.to_string()).map_err(|_| ()),
            want.map(str::to_owned)
        );
    }

    #[rstest]
    #[case(":", "[::]:9443")]
    #[case("0.0.0.0:", "0.0.0.0:9443")]
    #[case("[::1]:", "[::1]:9443")]
    #[case("localhost:", "127.0.0.1:9443")]
    #[case("[::1]:1", "[::1]:1")]
    fn an_address_may_lack_its_port(#[case] text: &str, #[case] want: &str) {
        let address = address_with_port(text, 9443);
        assert_eq!(address, Ok(want.parse().unwrap()));
    }

    #[rstest]
    #[case("", Ok(""))]
    #[case("a/b", Ok("a/b"))]
    #[case("b", Err(()))]
    #[case("/b", Err(()))]
    #[case("a/", Err(()))]
    #[case("a/b/c", Err(()))]
    fn an_object_has_a_namespace_and_a_name(#[case] text: &str, #[case] want: Result<&str, ()>) {
        let name = |name: OptionalName| name.0.map(|name| name.to_string()).unwrap_or_default();
        assert_eq!(
            object_name(text).map(name).map_err(|_| ()),
            want.map(str::to_owned)
        );
    }

    #[rstest]
    #[case(&["1", "t", "T", "true", "TRUE", "True"], Some(true))]
    #[case(&["0", "f", "F", "false", "FALSE", "False"], Some(false))]
    #[case(&["", "yes", "on", "tRUE", "2", " true"], None)]
    fn booleans_are_read_as_go_reads_them(#[case] texts: &[&str], #[case] want: Option<bool>) {
        for text in texts {
            assert_eq!(boolean(text).ok(), want, "{text:?}");
        }
    }
}
