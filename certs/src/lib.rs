//! The serving certificate's life: a development CA, loading from files with every check that can be made before the
//! first handshake, and hot reload into rustls when the files change.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use machinist_certs::{CertificateFiles, Reloader, server_config};
//! let files = CertificateFiles::new("/tmp/cert/tls.crt", "/tmp/cert/tls.key");
//! let (certificate, reloader) = Reloader::start(files)?;
//! tokio::spawn(reloader.run());
//! let config = server_config(certificate)?;
//! # Ok(()) }
//! ```

mod development;
mod identity;
mod reload;
mod tls;

pub use development::{DevelopmentCa, Leaf};
pub use identity::{CertificateFiles, Identity, LoadError};
pub use reload::{CurrentCertificate, Reloader};
pub use tls::server_config;
