//! The address of the user cluster: a kubeconfig, a URL, or the pod's own cluster; and the cluster that kubectl uses.

use std::path::Path;

use base64::Engine as _;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::kube::error::ClientError;

/// The address of the user cluster. Empty values are unset: without both, it is the pod's own cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserCluster<'a> {
    /// Path of the kubeconfig. It is the admin's, so it may use every feature of kubeconfigs.
    pub kubeconfig: &'a str,
    /// URL of the API server, instead of that of the kubeconfig.
    pub server: &'a str,
}

impl UserCluster<'_> {
    /// Whether it is the pod's own cluster.
    pub const fn is_of_the_pod(self) -> bool {
        self.kubeconfig.is_empty() && self.server.is_empty()
    }

    /// The CAs of its API server, PEM; `None` for the system's.
    pub async fn ca_pem(self) -> Result<Option<String>, ClientError> {
        let engine = &base64::engine::general_purpose::STANDARD;
        let certificates = self.config().await?.root_cert.unwrap_or_default();
        let pem = certificates.iter().map(|der| {
            let text = engine.encode(der);
            let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
            let lines: Vec<_> = lines.collect();
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                lines.join("\n")
            )
        });
        Ok(Some(pem.collect::<String>()).filter(|pem| !pem.is_empty()))
    }

    /// URL of its API server.
    pub async fn server_url(self) -> Result<String, ClientError> {
        Ok(self.config().await?.cluster_url.to_string())
    }

    /// The configuration of a client for it.
    pub(crate) async fn config(self) -> Result<Config, ClientError> {
        let server = (!self.server.is_empty()).then(|| {
            let server = self.server.parse::<http::Uri>().ok();
            server
                .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
                .ok_or(ClientError::Server)
        });
        let server = server.transpose()?;
        let bad = |error: &dyn std::fmt::Display| ClientError::Kubeconfig(error.to_string());
        if self.kubeconfig.is_empty() {
            return match server {
                Some(server) => Ok(Config::new(server)),
                None => Config::incluster().map_err(|e| bad(&e)),
            };
        }
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig).map_err(|e| bad(&e))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let mut config = config.map_err(|e| bad(&e))?;
        if let Some(server) = server {
            config.cluster_url = server;
        }
        Ok(config)
    }
}

/// The cluster that kubectl uses: from a file, otherwise from the files in `KUBECONFIG`, otherwise from
/// `~/.kube/config`, otherwise the pod's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct KubectlCluster<'a> {
    /// Path of the kubeconfig. It is the user's own, so it may use every feature of kubeconfigs.
    pub kubeconfig: Option<&'a Path>,
    /// Name of the context, instead of the current one.
    pub context: Option<&'a str>,
}

impl KubectlCluster<'_> {
    /// The configuration of a client for it.
    pub(crate) async fn config(self) -> Result<Config, ClientError> {
        let bad = |error: &dyn std::fmt::Display| ClientError::Kubeconfig(error.to_string());
        let options = KubeConfigOptions {
            context: self.context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        if let Some(path) = self.kubeconfig {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| bad(&e))?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            return config.map_err(|e| bad(&e));
        }
        match Config::from_kubeconfig(&options).await {
            Ok(config) => Ok(config),
            // A context requires a kubeconfig.
            Err(error) if self.context.is_some() => Err(bad(&error)),
            Err(error) => Config::incluster().map_err(|_| bad(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: 'https://10.0.0.1:6443'}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
";

    #[rstest]
    #[case::kubeconfig(true, "", Ok("https://10.0.0.1:6443/"))]
    #[case::server_wins_over_the_kubeconfigs(true, "https://10.0.0.2:6443", Ok("https://10.0.0.2:6443/"))]
    #[case::server_alone(false, "http://10.0.0.2", Ok("http://10.0.0.2/"))]
    #[case::no_scheme(true, "10.0.0.2:6443", Err("not a URL"))]
    #[case::other_scheme(false, "ftp://u:hunter2@10.0.0.2", Err("not a URL"))]
    #[tokio::test]
    async fn the_server_is_that_of_the_flags(
        #[case] with_kubeconfig: bool,
        #[case] server: &str,
        #[case] want: Result<&str, &str>,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, KUBECONFIG).unwrap();
        let kubeconfig = if with_kubeconfig {
            path.to_str().unwrap()
        } else {
            ""
        };
        let found = UserCluster { kubeconfig, server }.config().await;
        match (found.map(|config| config.cluster_url.to_string()), want) {
            (Ok(found), Ok(want)) => assert_eq!(found, want),
            (Err(error), Err(want)) => {
                assert!(
                    error.to_string().contains(want) && !error.to_string().contains("hunter2"),
                    "{error}"
                );
            }
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }

    #[rstest]
    #[case::the_current_one(None, Ok("https://10.0.0.1:6443/"))]
    #[case::one_by_name(Some("other"), Ok("https://10.0.0.2:6443/"))]
    #[case::one_that_is_not_there(Some("nowhere"), Err("nowhere"))]
    #[tokio::test]
    async fn a_context_of_a_persons_kubeconfig(
        #[case] context: Option<&str>,
        #[case] want: Result<&str, &str>,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let other = "{name: other, cluster: {server: 'https://10.0.0.2:6443'}}";
        let text = KUBECONFIG
            .replace("clusters: [", &format!("clusters: [{other}, "))
            .replace(
                "contexts: [",
                "contexts: [{name: other, context: {cluster: other, user: u}}, ",
            );
        std::fs::write(&path, text).unwrap();
        let cluster = KubectlCluster {
            kubeconfig: Some(&path),
            context,
        };
        match (cluster.config().await, want) {
            (Ok(config), Ok(want)) => assert_eq!(config.cluster_url.to_string(), want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }

    #[tokio::test]
    async fn its_ca_is_that_of_the_kubeconfig() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v\nMDEyMw==\n-----END CERTIFICATE-----\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let data = base64::engine::general_purpose::STANDARD.encode(PEM);
        for (text, want) in [
            (KUBECONFIG.to_owned(), None),
            (
                KUBECONFIG.replace(
                    "{server:",
                    &format!("{{certificate-authority-data: {data}, server:"),
                ),
                Some(PEM.to_owned()),
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let kubeconfig = path.to_str().unwrap();
            let cluster = UserCluster {
                kubeconfig,
                server: "",
            };
            assert_eq!(cluster.ca_pem().await.unwrap(), want);
        }
    }
}
