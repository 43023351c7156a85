//! The source of the serving certificate: files, or a Secret with a given name.
//!
//! The Secret is watched, not mounted: a kubelet updates a mounted Secret after a minute or more, and does not start
//! the pod before it exists. A watch reports changes immediately, and the webhook waits for the Secret, live but not
//! ready.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use machinist_certs::{CertificateFiles, CurrentCertificate, Identity, Reloader};
use machinist_infra::cache::reflect::{Signal, reflect};
use machinist_infra::cache::store::{Key, Store};
use machinist_infra::cache::watch::Selector;
use tokio::task::JoinSet;

use crate::flags::Flags;

/// The source.
#[derive(Clone)]
pub enum Source {
    /// Two files.
    Files(CertificateFiles),
    /// A Secret of the user cluster.
    Secret {
        /// Of the user cluster.
        client: Client,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(files) => f.debug_tuple("Files").field(files).finish(),
            Self::Secret { namespace, name, .. } => f
                .debug_tuple("Secret")
                .field(&format!("{namespace}/{name}"))
                .finish(),
        }
    }
}

impl Source {
    /// The source from the flags; a Secret requires a cluster.
    pub fn new(flags: &Flags, client: Option<Client>) -> anyhow::Result<Self> {
        let Some(secret) = &flags.tls_secret.0 else {
            let files = CertificateFiles::new(&flags.tls_cert_path, &flags.tls_key_path);
            return Ok(Self::Files(files));
        };
        let Some(client) = client else {
            anyhow::bail!("--tls-secret needs a cluster: run the webhook in a pod, or give it --kubeconfig");
        };
        Ok(Self::Secret {
            client,
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
        })
    }

    /// The certificate, with tasks that keep it current. Files must exist and be valid; a Secret may be created later.
    pub(crate) fn start(
        self,
        tasks: &mut JoinSet<io::Result<()>>,
    ) -> anyhow::Result<Arc<CurrentCertificate>> {
        match self {
            Self::Files(files) => {
                let (certificate, reloader) = Reloader::start(files)?;
                tasks.spawn(async move {
                    reloader.run().await;
                    Ok(())
                });
                Ok(certificate)
            }
            Self::Secret {
                client,
                namespace,
                name,
            } => {
                let certificate = Arc::new(CurrentCertificate::none());
                let current = certificate.clone();
                tasks.spawn(async move {
                    follow(client, namespace, name, &current).await;
                    Ok(())
                });
                Ok(certificate)
            }
        }
    }
}

/// Serves the certificate in the Secret, and follows changes. A missing or invalid Secret leaves the current
/// certificate in place.
async fn follow(client: Client, namespace: String, name: String, current: &CurrentCertificate) {
    let (secret, key) = (format!("{namespace}/{name}"), Key::new(&namespace, &name));
    let store = Arc::new(Store::new(|_: &Secret| Vec::new()));
    let stored = store.clone();
    let config = Selector::default().fields(&format!("metadata.name={name}"));
    let on = move |signal: Signal<'_, Secret>| {
        if let Signal::Failed(error) = &signal {
            tracing::warn!(secret, %error, "cannot read the Secret of the serving certificate; trying again");
        } else if let Some(found) = stored.get(&key) {
            serve(&secret, &found, current);
        } else if stored.is_synced() {
            tracing::warn!(secret, "the Secret of the serving certificate does not exist yet");
        }
    };
    reflect(Api::namespaced(client, &namespace), config, store, on).await;
}

fn serve(secret: &str, found: &Secret, current: &CurrentCertificate) {
    let data = |key: &str| {
        let found = found.data.as_ref().and_then(|data| data.get(key));
        found.map(|bytes| bytes.0.as_slice()).unwrap_or_default()
    };
    match Identity::of_secret(secret, data("tls.crt"), data("tls.key"), SystemTime::now()) {
        Ok(identity) => current.replace(identity),
        Err(error) => {
            tracing::warn!(%error, "the certificate is not usable; still serving with the previous one");
        }
    }
}
