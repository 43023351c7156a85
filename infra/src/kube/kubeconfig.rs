//! Kubeconfigs in specs: inline credentials only, and only allowed addresses.
//!
//! The author of a Machine chooses the kubeconfig, so it must not make this process run a program, read a file, or
//! connect to its own host.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Allowed addresses of kubeconfigs in specs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Allow loopback and link-local addresses.
    pub allow_loopback: bool,
}

impl AddressPolicy {
    /// Whether a connection to `address` is allowed.
    pub fn allows(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.allow_loopback {
            return !address.is_unspecified();
        }
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
    }
}

/// Why a kubeconfig is refused. Never contains its secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// It cannot be decoded.
    #[error("the kubeconfig is neither YAML nor JSON of the kind Config")]
    Undecodable,
    /// It is larger than any kubeconfig.
    #[error("the kubeconfig has {0} bytes; the limit is {MAX_BYTES}")]
    TooLarge(usize),
    /// A required part is missing.
    #[error("the kubeconfig has no {0}")]
    Missing(&'static str),
    /// It contains a forbidden field.
    #[error("{field} is not allowed in a spec's kubeconfig; {instead}")]
    Forbidden {
        /// The field.
        field: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// Its server has a forbidden address.
    #[error("the server{0} is a loopback or link-local address; only --infra-allow-loopback permits that")]
    Address(Host),
    /// The server's URL cannot be used.
    #[error("the server{0} is not a URL like https://10.0.0.1:6443, without user, password and query")]
    Server(Host),
    /// Data that should be base64 of PEM is not.
    #[error("{0} is not base64")]
    NotBase64(&'static str),
}

const MAX_BYTES: usize = 256 * 1024;

/// Host and port of a server's URL, the only part of a kubeconfig that is ever shown. Empty if the URL may contain a
/// user and a password, which can look like a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(Option<String>);

impl Host {
    fn of(url: &str) -> Self {
        let parsed = url.parse::<http::Uri>().ok().filter(|_| !url.contains('@'));
        let authority = parsed.as_ref().and_then(http::Uri::authority);
        let host = authority.map(|authority| {
            let port = authority.port_u16().map(|port| format!(":{port}"));
            format!("{}{}", authority.host(), port.unwrap_or_default())
        });
        Self(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(host) => write!(f, " {host}"),
            None => Ok(()),
        }
    }
}

/// Instead of a CA's digest: the certificate is verified with the system's CAs.
pub const CA_SYSTEM: &str = "system";
/// Instead of a CA's digest: the certificate is not verified.
pub const CA_INSECURE: &str = "insecure";

/// A valid kubeconfig.
#[derive(Clone)]
pub struct InfraKubeconfig {
    server: String,
    ca_digest: String,
    credential_digest: String,
    /// With one context, one cluster and one user, all inline.
    pub(crate) config: Kubeconfig,
    pub(crate) policy: AddressPolicy,
}

impl fmt::Debug for InfraKubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InfraKubeconfig")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl InfraKubeconfig {
    /// Parses a kubeconfig and refuses one that is forbidden in a spec.
    pub fn parse(text: &str, policy: AddressPolicy) -> Result<Self, KubeconfigError> {
        if text.len() > MAX_BYTES {
            return Err(KubeconfigError::TooLarge(text.len()));
        }
        let mut config = Kubeconfig::from_yaml(text).map_err(|_| KubeconfigError::Undecodable)?;
        normalize(&mut config);
        let current = config.current_context.clone().filter(|name| !name.is_empty());
        let current = current.ok_or(KubeconfigError::Missing("current-context"))?;
        let context = config
            .contexts
            .iter()
            .find(|named| named.name == current)
            .and_then(|named| named.context.clone());
        let context = context.ok_or(KubeconfigError::Missing("context that current-context names"))?;
        config.clusters.retain(|named| named.name == context.cluster);
        let user = context.user.clone().unwrap_or_default();
        config.auth_infos.retain(|named| named.name == user);
        let cluster = config.clusters.first().and_then(|named| named.cluster.as_ref());
        let cluster = cluster.ok_or(KubeconfigError::Missing("cluster that its context names"))?;
        let auth = config
            .auth_infos
            .first()
            .and_then(|named| named.auth_info.as_ref());
        let auth = auth.ok_or(KubeconfigError::Missing("user that its context names"))?;

        check_cluster(cluster)?;
        check_user(auth)?;
        let server = server(cluster, policy)?;
        let ca_digest = ca_digest(cluster)?;
        let credential_digest = credential_digest(&server, &ca_digest, cluster, auth);
        Ok(Self {
            server,
            ca_digest,
            credential_digest,
            config,
            policy,
        })
    }

    /// URL of the API server, without a trailing slash.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// SHA-256 of the CA, and of the TLS server name if it differs from the server's; [`CA_SYSTEM`] without either,
    /// [`CA_INSECURE`] without verification.
    pub fn ca_digest(&self) -> String {
        self.ca_digest.clone()
    }

    /// SHA-256 of server, CA and credential: equal only for the same permissions on the same cluster.
    pub fn credential_digest(&self) -> String {
        self.credential_digest.clone()
    }
}

/// Normalizes values as client-go does: an empty string is absent, and base64 may have line breaks.
fn normalize(config: &mut Kubeconfig) {
    fn text(field: &mut Option<String>) {
        *field = field.take().filter(|text| !text.is_empty());
    }
    fn secret(field: &mut Option<SecretString>) {
        *field = field.take().filter(|secret| !secret.expose_secret().is_empty());
    }
    let unbroken = |text: &str| text.replace(['\r', '\n'], "");
    let clusters = config.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        let ca = &mut cluster.certificate_authority_data;
        *ca = ca.as_deref().map(unbroken);
        for field in [
            ca,
            &mut cluster.certificate_authority,
            &mut cluster.proxy_url,
            &mut cluster.tls_server_name,
        ] {
            text(field);
        }
    }
    let users = config.auth_infos.iter_mut();
    for auth in users.filter_map(|named| named.auth_info.as_mut()) {
        let certificate = &mut auth.client_certificate_data;
        *certificate = certificate.as_deref().map(unbroken);
        let key = &mut auth.client_key_data;
        *key = key.as_ref().map(|key| unbroken(key.expose_secret()).into());
        secret(key);
        secret(&mut auth.token);
        for field in [
            certificate,
            &mut auth.username,
            &mut auth.token_file,
            &mut auth.client_certificate,
            &mut auth.client_key,
            &mut auth.impersonate,
            &mut auth.impersonate_uid,
        ] {
            text(field);
        }
        let groups = &mut auth.impersonate_groups;
        *groups = groups.take().filter(|groups| !groups.is_empty());
        let extra = &mut auth.impersonate_user_extra;
        *extra = extra.take().filter(|extra| !extra.is_empty());
    }
}

fn forbid(present: bool, field: &'static str, instead: &'static str) -> Result<(), KubeconfigError> {
    if present {
        Err(KubeconfigError::Forbidden { field, instead })
    } else {
        Ok(())
    }
}

fn check_cluster(cluster: &Cluster) -> Result<(), KubeconfigError> {
    forbid(
        cluster.certificate_authority.is_some(),
        "certificate-authority",
        "write the CA into certificate-authority-data",
    )?;
    forbid(
        cluster.proxy_url.is_some(),
        "proxy-url",
        "the infra cluster must be reached directly",
    )
}

fn check_user(auth: &AuthInfo) -> Result<(), KubeconfigError> {
    let inline = "use a token or a client certificate, inline";
    forbid(auth.exec.is_some(), "exec", inline)?;
    forbid(auth.auth_provider.is_some(), "auth-provider", inline)?;
    forbid(
        auth.token_file.is_some(),
        "tokenFile",
        "write the token into token",
    )?;
    forbid(
        auth.client_certificate.is_some(),
        "client-certificate",
        "write it into client-certificate-data",
    )?;
    forbid(
        auth.client_key.is_some(),
        "client-key",
        "write it into client-key-data",
    )?;
    let impersonates = auth.impersonate.is_some()
        || auth.impersonate_uid.is_some()
        || auth.impersonate_groups.is_some()
        || auth.impersonate_user_extra.is_some();
    forbid(
        impersonates,
        "impersonation (as, as-groups …)",
        "use the credential of that user itself",
    )?;
    for (field, data) in [
        ("client-certificate-data", auth.client_certificate_data.as_deref()),
        (
            "client-key-data",
            auth.client_key_data.as_ref().map(ExposeSecret::expose_secret),
        ),
    ] {
        if data.is_some_and(|data| STANDARD.decode(data).is_err()) {
            return Err(KubeconfigError::NotBase64(field));
        }
    }
    Ok(())
}

fn server(cluster: &Cluster, policy: AddressPolicy) -> Result<String, KubeconfigError> {
    let url = cluster.server.as_deref().filter(|url| !url.is_empty());
    let url = url
        .ok_or(KubeconfigError::Missing("server"))?
        .trim_end_matches('/');
    let bad = || KubeconfigError::Server(Host::of(url));
    let parsed: http::Uri = url.parse().map_err(|_| bad())?;
    // A password with a slash or without a host ends up in the path, or looks like a port.
    let has_port = |authority: &http::uri::Authority| authority.as_str() != authority.host();
    let authority = parsed
        .authority()
        .filter(|authority| !url.contains('@') && (!has_port(authority) || authority.port_u16().is_some()));
    let (Some("https"), Some(authority), None) = (parsed.scheme_str(), authority, parsed.query()) else {
        return Err(bad());
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let refused = match host.parse::<IpAddr>() {
        Ok(address) => !policy.allows(address),
        // Names are checked again after resolution; this name always means this host.
        Err(_) => !policy.allow_loopback && (host == "localhost" || host.ends_with(".localhost")),
    };
    if refused {
        return Err(KubeconfigError::Address(Host::of(url)));
    }
    Ok(url.to_owned())
}

fn ca_digest(cluster: &Cluster) -> Result<String, KubeconfigError> {
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Ok(CA_INSECURE.to_owned());
    }
    let ca = match &cluster.certificate_authority_data {
        None => CA_SYSTEM.to_owned(),
        Some(data) => {
            let pem = STANDARD.decode(data);
            let pem = pem.map_err(|_| KubeconfigError::NotBase64("certificate-authority-data"))?;
            hex(&Sha256::digest(pem))
        }
    };
    Ok(match &cluster.tls_server_name {
        None => ca,
        // One address can serve several clusters.
        Some(name) => hex(&Sha256::digest(format!("{ca}\n{name}"))),
    })
}

fn credential_digest(server: &str, ca: &str, cluster: &Cluster, auth: &AuthInfo) -> String {
    let secret = |s: &Option<secrecy::SecretString>| {
        s.as_ref()
            .map(|s| s.expose_secret().to_owned())
            .unwrap_or_default()
    };
    let parts = [
        server.to_owned(),
        ca.to_owned(),
        cluster.tls_server_name.clone().unwrap_or_default(),
        auth.username.clone().unwrap_or_default(),
        secret(&auth.password),
        secret(&auth.token),
        auth.client_certificate_data.clone().unwrap_or_default(),
        secret(&auth.client_key_data),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn text(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n\
             clusters:\n- name: c\n  cluster: {{{cluster}}}\nusers:\n- name: u\n  user: {{{user}}}\n"
        )
    }

    const SERVER: &str = "server: 'https://infra.example:6443'";

    #[rstest]
    #[case::token(SERVER, "token: t")]
    #[case::basic(SERVER, "username: a, password: b")]
    #[case::certificate(SERVER, "client-certificate-data: YQ==, client-key-data: YQ==")]
    #[case::insecure("server: 'https://10.0.0.1', insecure-skip-tls-verify: true", "token: t")]
    fn inline_credentials_are_taken(#[case] cluster: &str, #[case] user: &str) {
        InfraKubeconfig::parse(&text(cluster, user), AddressPolicy::default()).unwrap();
    }

    #[rstest]
    #[case::exec(
        SERVER,
        "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh}",
        "exec"
    )]
    #[case::auth_provider(SERVER, "auth-provider: {name: gcp, config: {}}", "auth-provider")]
    #[case::token_file(SERVER, "tokenFile: /var/run/secrets/token", "tokenFile")]
    #[case::certificate_file(SERVER, "client-certificate: /etc/passwd", "client-certificate")]
    #[case::key_file(SERVER, "client-key: /etc/shadow", "client-key")]
    #[case::ca_file(
        "server: 'https://a', certificate-authority: /etc/passwd",
        "token: t",
        "certificate-authority"
    )]
    #[case::proxy("server: 'https://a', proxy-url: 'http://p'", "token: t", "proxy-url")]
    #[case::impersonation(SERVER, "token: t, as: admin", "impersonation")]
    #[case::plain_http("server: 'http://a'", "token: t", "https://")]
    #[case::no_server("", "token: t", "no server")]
    #[case::loopback("server: 'https://127.0.0.1:6443'", "token: t", "loopback")]
    #[case::loopback_v6("server: 'https://[::1]:6443'", "token: t", "loopback")]
    #[case::mapped_loopback("server: 'https://[::ffff:127.0.0.1]:6443'", "token: t", "loopback")]
    #[case::localhost("server: 'https://localhost:6443'", "token: t", "loopback")]
    #[case::metadata_service("server: 'https://169.254.169.254'", "token: t", "loopback")]
    #[case::any("server: 'https://0.0.0.0'", "token: t", "loopback")]
    #[case::bad_key(SERVER, "client-key-data: '%%'", "client-key-data")]
    fn what_could_harm_is_refused_by_name(#[case] cluster: &str, #[case] user: &str, #[case] named: &str) {
        let error = InfraKubeconfig::parse(&text(cluster, user), AddressPolicy::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{error}");
    }

    #[rstest]
    #[case::user_and_password("server: 'https://admin:hush@10.0.0.1:6443'", "")]
    #[case::password_with_a_slash("server: 'https://admin:hu/sh@10.0.0.1:6443'", "")]
    #[case::password_with_a_question_mark("server: 'https://admin:hu?sh@10.0.0.1'", "")]
    #[case::without_scheme("server: 'admin:hush@10.0.0.1:6443'", "")]
    #[case::password_for_a_port("server: 'https://admin:hush'", "")]
    #[case::token_in_the_query("server: 'https://10.0.0.1:6443?token=hush'", " 10.0.0.1:6443 ")]
    #[case::token_in_the_path("server: 'http://10.0.0.1:6443/hush'", " 10.0.0.1:6443 ")]
    #[case::loopback("server: 'https://127.0.0.1:6443/hush'", " 127.0.0.1:6443 ")]
    fn of_a_server_no_more_than_host_and_port_is_quoted(#[case] cluster: &str, #[case] quoted: &str) {
        let error = InfraKubeconfig::parse(&text(cluster, "token: t"), AddressPolicy::default()).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("hu") && error.to_string().contains(quoted),
            "{shown}"
        );
    }

    #[rstest]
    #[case::context("current-context: c", "current-context: hush")]
    #[case::cluster("cluster: c", "cluster: hush")]
    #[case::user("user: u", "user: hush")]
    fn no_name_in_a_kubeconfig_is_quoted(#[case] name: &str, #[case] other: &str) {
        let broken = text(SERVER, "token: t").replacen(name, other, 1);
        let error = InfraKubeconfig::parse(&broken, AddressPolicy::default()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }

    #[test]
    fn loopback_is_taken_where_it_is_allowed() {
        let policy = AddressPolicy { allow_loopback: true };
        let parsed =
            InfraKubeconfig::parse(&text("server: 'https://127.0.0.1:6443/'", "token: t"), policy).unwrap();
        assert_eq!(parsed.server(), "https://127.0.0.1:6443");
    }

    #[rstest]
    #[case("")]
    #[case("{}")]
    #[case("a: &a [*a, *a]")]
    #[case("\u{0}")]
    #[case("current-context: nowhere")]
    fn what_is_no_kubeconfig_is_an_error(#[case] text: &str) {
        assert!(InfraKubeconfig::parse(text, AddressPolicy::default()).is_err());
    }

    #[test]
    fn base64_may_be_wrapped_as_client_go_takes_it() {
        let whole = text(
            "server: 'https://a', certificate-authority-data: YWJj",
            "client-certificate-data: YWJj, client-key-data: YWJj",
        );
        let wrapped = whole.replace("YWJj", "\"YW\\r\\nJj\\n\"");
        let [whole, wrapped] =
            [whole, wrapped].map(|text| InfraKubeconfig::parse(&text, AddressPolicy::default()).unwrap());
        assert_eq!(whole.ca_digest(), wrapped.ca_digest());
        assert_eq!(whole.credential_digest(), wrapped.credential_digest());
        let users = wrapped.config.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(users.client_certificate_data.as_deref(), Some("YWJj"));
    }

    #[test]
    fn empty_text_is_none() {
        let cluster = "server: 'https://a', certificate-authority: '', certificate-authority-data: '', proxy-url: '', tls-server-name: ''";
        let user = "token: t, tokenFile: '', client-certificate: '', client-key: '', client-key-data: '', username: '', as: '', as-groups: []";
        let empty = InfraKubeconfig::parse(&text(cluster, user), AddressPolicy::default()).unwrap();
        let absent = text("server: 'https://a'", "token: t");
        let absent = InfraKubeconfig::parse(&absent, AddressPolicy::default()).unwrap();
        assert_eq!(empty.ca_digest(), CA_SYSTEM);
        assert_eq!(empty.credential_digest(), absent.credential_digest());
    }

    #[rstest]
    #[case::with_a_ca("certificate-authority-data: YWJj", true)]
    #[case::with_the_worlds("", true)]
    #[case::with_none("insecure-skip-tls-verify: true", false)]
    fn clusters_behind_one_address_are_distinguished_by_the_name_that_they_serve(
        #[case] trust: &str,
        #[case] certified: bool,
    ) {
        let named = |name: &str| {
            let cluster = format!("{SERVER}, tls-server-name: '{name}', {trust}");
            InfraKubeconfig::parse(&text(&cluster, "token: t"), AddressPolicy::default()).unwrap()
        };
        let (a, b) = (named("a.example"), named("b.example"));
        assert_ne!(a.credential_digest(), b.credential_digest());
        assert_eq!(a.ca_digest() != b.ca_digest(), certified);
    }

    #[test]
    fn nothing_shows_the_credential_and_another_credential_has_another_digest() {
        let parse = |token: &str| {
            InfraKubeconfig::parse(
                &text(SERVER, &format!("token: {token}")),
                AddressPolicy::default(),
            )
            .unwrap()
        };
        let (a, b) = (parse("hush"), parse("psst"));
        assert!(!format!("{a:?}").contains("hush"));
        assert_ne!(a.credential_digest(), b.credential_digest());
        assert_eq!(a.ca_digest(), b.ca_digest());
    }
}
