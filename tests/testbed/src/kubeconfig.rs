//! Kubeconfigs with one cluster, one user and a bearer token, and clients made from them.

use anyhow::Result;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A kubeconfig as YAML. `ca` is base64 of PEM, as [`crate::pki::Ca::base64`] gives it.
pub fn with_token(name: &str, server: &str, ca: &str, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {name}
  user:
    token: {token}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
current-context: {name}
"
    )
}

/// A client for a kubeconfig.
pub async fn client(kubeconfig: &str) -> Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

/// The configuration of a client for a kubeconfig.
pub async fn config(kubeconfig: &str) -> Result<Config> {
    install_crypto();
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// Makes aws-lc-rs the process's TLS provider, once; another call, or another choice, is ignored.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
