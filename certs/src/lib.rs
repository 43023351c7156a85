//! The webhook's certificates: the authority that signs them and its rotation, decided by pure functions; loading with
//! validation; and hot reload into rustls.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use machinist_certs::{CertificateFiles, Clients, MinimumTls, Reloader, server_config};
//! let files = CertificateFiles::new("/tmp/cert/tls.crt", "/tmp/cert/tls.key");
//! let (certificate, reloader) = Reloader::start(files)?;
//! tokio::spawn(reloader.run());
//! let config = server_config(certificate, MinimumTls::default(), Clients::Any)?;
//! # Ok(()) }
//! ```

mod authority;
mod development;
mod identity;
mod probe;
mod reload;
mod root;
pub mod rotation;
mod tls;

pub use authority::{Authority, AuthorityError, ServingCertificate};
pub use development::DevelopmentCa;
pub use identity::{CertificateFiles, Identity, LoadError, PemSource};
pub use probe::{Served, served};
pub use reload::{CurrentCertificate, Reloader};
pub use root::{Bundle, Root, RootError, accepts, bundle_pem};
pub use tls::{Clients, ClientsError, MinimumTls, server_config};
