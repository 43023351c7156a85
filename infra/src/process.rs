//! Process setup for both servers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Listens on `address`; only on IPv4 if it means every address and there is no IPv6.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).or_else(|error| {
        if address.is_ipv6() && address.ip().is_unspecified() {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })
}

/// Installs the TLS provider of this process, unless it is installed.
pub fn install_tls_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A panic's message may contain data, including secrets: only its location is logged.
pub fn hide_panic_messages() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        assert!(bind(taken.local_addr().unwrap()).is_err());
    }
}
