//! Values as Go programs take them.

use std::net::{Ipv6Addr, SocketAddr};

/// Parses what Go takes for a boolean (`strconv.ParseBool`).
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Parses `host:port`, and `:port` as Go programs take it: every address, IPv4 and IPv6.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("{text:?} has no port number"))?;
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is no address like 0.0.0.0:9876 or :9876"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(":9876", Ok("[::]:9876"))]
    #[case("127.0.0.1:0", Ok("127.0.0.1:0"))]
    #[case("[::1]:1", Ok("[::1]:1"))]
    #[case("localhost:1", Err(()))]
    #[case(":http", Err(()))]
    fn addresses_are_read_as_go_programs_take_them(#[case] text: &str, #[case] want: Result<&str, ()>) {
        assert_eq!(
            address(text).map(|a| a.to_string()).map_err(|_| ()),
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
