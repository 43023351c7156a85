//! Where the user cluster is: in a kubeconfig, at a URL, or around the pod.

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::client::ClientError;

/// How the user cluster is reached. Empty is none: with neither, it is the one that the pod runs in.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserCluster<'a> {
    /// Path of the kubeconfig. It is the admin's own, so it may be anything that a kubeconfig can be.
    pub kubeconfig: &'a str,
    /// URL of the API server, instead of that of the kubeconfig.
    pub server: &'a str,
}

impl UserCluster<'_> {
    /// Is it the cluster that the pod runs in?
    pub const fn is_of_the_pod(self) -> bool {
        self.kubeconfig.is_empty() && self.server.is_empty()
    }

    /// What a client of it is made of.
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
}
