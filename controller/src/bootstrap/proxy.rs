//! The HTTP proxy of everything in the guest that fetches something: containerd, the kubelet, the installation.

use machinist_shared::provider::machinist::Proxy;

use super::guest::{File, mode};
use super::input::UserDataError;
use super::systemd;

/// Drop-ins of the services, for root alone: the URL may hold a password.
pub(super) fn files(
    proxy: &Proxy,
    server: &str,
    domain: &str,
    services: &[&str],
) -> Result<Vec<File>, UserDataError> {
    if !proxy.is_set() {
        return Ok(Vec::new());
    }
    let no = exceptions(proxy, server, domain);
    let mut text = "[Service]\n".to_owned();
    for (name, value) in [
        ("HTTP_PROXY", &proxy.http),
        ("HTTPS_PROXY", &proxy.https),
        ("NO_PROXY", &no),
    ] {
        if !value.is_empty() {
            text.push_str(&systemd::assignment(name, value)?);
            // curl reads no HTTP_PROXY in capitals, and other programs no other.
            text.push_str(&systemd::assignment(&name.to_lowercase(), value)?);
        }
    }
    let drop_in = |service: &&str| {
        let path = format!("/etc/systemd/system/{service}.d/20-proxy.conf");
        File::new(path, mode::SECRET, text.clone())
    };
    Ok(services.iter().map(drop_in).collect())
}

/// What is always reached without a proxy: the guest itself, the cluster's services and its API server.
fn exceptions(proxy: &Proxy, server: &str, domain: &str) -> String {
    let host = server.split("://").nth(1).unwrap_or(server);
    let host = host.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    let domain = format!(".{domain}");
    let own = ["localhost", "127.0.0.0/8", "::1", ".svc", &domain, host];
    let mut list: Vec<&str> = proxy.no.iter().map(String::as_str).collect();
    list.extend(own.iter().filter(|own| !proxy.no.iter().any(|no| no == *own)));
    list.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("https://api.example.com:6443", "api.example.com")]
    #[case("https://10.0.0.1", "10.0.0.1")]
    #[case("https://[fd00::1]:6443/x", "fd00::1")]
    fn the_api_server_is_reached_without_the_proxy(#[case] server: &str, #[case] host: &str) {
        let proxy = Proxy {
            http: "http://p:3128".to_owned(),
            no: vec!["10.0.0.0/8".to_owned(), ".svc".to_owned()],
            ..Proxy::default()
        };
        let files = files(&proxy, server, "cluster.local", &["a.service", "b.service"]).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "/etc/systemd/system/a.service.d/20-proxy.conf",
                "/etc/systemd/system/b.service.d/20-proxy.conf"
            ]
        );
        let no = format!("10.0.0.0/8,.svc,localhost,127.0.0.0/8,::1,.cluster.local,{host}");
        assert_eq!(
            files[0].content,
            format!(
                "[Service]\nEnvironment=\"HTTP_PROXY=http://p:3128\"\nEnvironment=\"http_proxy=http://p:3128\"\n\
                 Environment=\"NO_PROXY={no}\"\nEnvironment=\"no_proxy={no}\"\n"
            )
        );
    }

    #[test]
    fn without_a_proxy_there_is_nothing() {
        assert!(
            files(&Proxy::default(), "https://a", "b", &["c"])
                .unwrap()
                .is_empty()
        );
    }
}
