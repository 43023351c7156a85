//! KubeVirt's rules for `dnsPolicy` and `dnsConfig`, with its messages and its unusual fields.

use std::net::IpAddr;

use serde_json::Value;

use super::validate::{Cause, items};

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 6;
const LONGEST_SEARCHES: usize = 256;
/// apimachinery's message for a name that is not a DNS subdomain.
const NO_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// The causes against the DNS settings of a VMI's spec.
pub(super) fn causes(spec: &Value) -> Vec<Cause> {
    let policy = spec.get("dnsPolicy").and_then(Value::as_str).unwrap_or_default();
    let texts = |pointer: &str| -> Vec<&str> {
        let items = items(spec, pointer).iter();
        items.map(|item| item.as_str().unwrap_or_default()).collect()
    };
    let (servers, searches) = (texts("/dnsConfig/nameservers"), texts("/dnsConfig/searches"));
    let mut causes = Vec::new();
    if !["", "None", "Default", "ClusterFirst", "ClusterFirstWithHostNet"].contains(&policy) {
        let message = format!(
            "DNSPolicy: {policy} is not supported, valid values: [ClusterFirstWithHostNet ClusterFirst Default None ]"
        );
        causes.push(Cause::invalid("dnsPolicy", message));
    }
    if policy == "None" && spec.get("dnsConfig").is_none_or(Value::is_null) {
        causes.push(Cause::required(
            "spec.template.spec.dnsConfig",
            "must provide `dnsConfig` when `dnsPolicy` is None",
        ));
    } else if policy == "None" && servers.is_empty() {
        let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.push(Cause::required("nameservers", message));
        return causes;
    }
    if servers.len() > MOST_SERVERS {
        let message = format!("must not have more than 3 nameservers: [{}]", servers.join(" "));
        causes.push(Cause::invalid("nameservers", message));
    }
    let strange = servers.iter().filter(|server| !is_address(server));
    causes.extend(
        strange.map(|server| Cause::invalid("nameservers", format!("must be valid IP address: {server}"))),
    );
    if searches.len() > MOST_SEARCHES {
        causes.push(Cause::invalid(
            "searchDomains",
            "must not have more than 6 search paths",
        ));
    }
    if searches.join(" ").len() > LONGEST_SEARCHES {
        causes.push(Cause::invalid(
            "searchDomains",
            "must not have more than 256 characters (including spaces) in the search list",
        ));
    }
    let strange = searches.iter().filter(|search| !is_subdomain(search));
    causes.extend(strange.map(|_| Cause::invalid("searchDomains", NO_SUBDOMAIN)));
    let options = items(spec, "/dnsConfig/options").iter();
    let nameless = options.filter(|option| option["name"].as_str().is_none_or(str::is_empty));
    causes.extend(nameless.map(|_| Cause::invalid("options", "Option.Name must not be empty")));
    causes
}

/// As Kubernetes reads them: parts of IPv4 may begin with zeros.
fn is_address(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let part = |part: &&str| (1..=3).contains(&part.len()) && part.parse::<u8>().is_ok();
    text.parse::<IpAddr>().is_ok() || parts.len() == 4 && parts.iter().all(part)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(|part| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    })
}
