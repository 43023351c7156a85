//! `providerSpec.value.network`: decoded strictly. KubeVirt ignores it; the built-in bootstrap configures the guest
//! with it, as far as that is possible.

use std::net::IpAddr;

use crate::api::decode::Field;
use crate::api::field::Report;

/// Network settings of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Address and mask.
    pub cidr: String,
    /// Default gateway.
    pub gateway: String,
    /// Name servers.
    pub dns_servers: Vec<String>,
    /// `""`, `IPv4`, `IPv6`, `IPv4+IPv6` or `IPv6+IPv4`; anything else means IPv4.
    pub ip_family: String,
}

impl Network {
    /// Decodes `field`; unknown keys are errors.
    pub fn decode(field: &Field<'_>, report: &mut Report) -> Option<Self> {
        let mut fields = field.object(report)?;
        let mut text = |key| fields.take(key).string(report).unwrap_or_default();
        let (cidr, gateway, ip_family) = (text("cidr"), text("gateway"), text("ipFamily"));
        let dns_servers = fields
            .take("dns")
            .object(report)
            .map_or_else(Vec::new, |mut dns| {
                let servers = dns.take("servers").strings(report).unwrap_or_default();
                dns.deny_unknown(report);
                servers
            });
        fields.deny_unknown(report);
        let network = Self {
            cidr,
            gateway,
            dns_servers,
            ip_family,
        };
        if let Err(why) = network.static_address() {
            report.warn(
                &field.path,
                format!("the static address has no effect: {why}; the guest uses DHCP"),
            );
        }
        if !FAMILIES.contains(&network.ip_family.as_str()) {
            report.warn(
                &field.path.child("ipFamily"),
                format!(
                    "{:?} is not one of {}; IPv4 is used",
                    network.ip_family,
                    FAMILIES[1..].join(", ")
                ),
            );
        }
        Some(network)
    }

    /// Whether it sets a static address.
    pub fn is_static(&self) -> bool {
        !self.cidr.is_empty() || !self.gateway.is_empty() || !self.dns_servers.is_empty()
    }

    /// The static address, if any, or why a guest cannot use it. Admission has never refused it, so it does not refuse
    /// it now.
    pub fn static_address(&self) -> Result<Option<StaticAddress>, String> {
        if !self.is_static() {
            return Ok(None);
        }
        let address = |field: &str, text: &str| -> Result<IpAddr, String> {
            text.parse()
                .map_err(|_| format!("{field} {text:?} is not an IP address"))
        };
        let (address_text, prefix) = self.cidr.split_once('/').unwrap_or((&self.cidr, ""));
        let ip = address_text.parse::<IpAddr>().ok();
        let ip = ip.zip(prefix.parse::<u8>().ok());
        let (ip, prefix) = ip
            .filter(|(ip, prefix)| *prefix <= if ip.is_ipv4() { 32 } else { 128 })
            .ok_or_else(|| {
                format!(
                    "cidr {:?} is not an address with a prefix, like 10.0.0.5/24",
                    self.cidr
                )
            })?;
        let gateway = Some(self.gateway.as_str()).filter(|text| !text.is_empty());
        let servers = self.dns_servers.iter();
        Ok(Some(StaticAddress {
            ip,
            prefix,
            gateway: gateway.map(|text| address("gateway", text)).transpose()?,
            name_servers: servers
                .map(|text| address("dns.servers", text))
                .collect::<Result<_, _>>()?,
        }))
    }
}

/// Values of `ipFamily`.
const FAMILIES: [&str; 5] = ["", "IPv4", "IPv6", "IPv4+IPv6", "IPv6+IPv4"];

/// A static address and its network settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of the network prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn network(cidr: &str, gateway: &str, dns: &[&str]) -> Network {
        Network {
            cidr: cidr.to_owned(),
            gateway: gateway.to_owned(),
            dns_servers: dns.iter().map(|&server| server.to_owned()).collect(),
            ip_family: String::new(),
        }
    }

    #[test]
    fn a_static_address_is_read() {
        let found = network("10.0.0.5/24", "10.0.0.1", &["fd00::2"]).static_address();
        let want = StaticAddress {
            ip: [10, 0, 0, 5].into(),
            prefix: 24,
            gateway: Some([10, 0, 0, 1].into()),
            name_servers: vec!["fd00::2".parse().unwrap()],
        };
        assert_eq!(found, Ok(Some(want)));
        assert_eq!(Network::default().static_address(), Ok(None));
    }

    #[rstest]
    #[case::no_prefix("10.0.0.5", "", &[], "cidr")]
    #[case::a_long_prefix("10.0.0.5/33", "", &[], "cidr")]
    #[case::only_name_servers("", "", &["10.0.0.2"], "cidr")]
    #[case::a_gateway("10.0.0.5/24", "gw", &[], "gateway")]
    #[case::two_lines("10.0.0.5/24", "10.0.0.1\nDHCP=yes", &[], "gateway")]
    #[case::a_name_server("10.0.0.5/24", "", &["dns"], "dns.servers")]
    fn unusable_addresses_are_reported(
        #[case] cidr: &str,
        #[case] gateway: &str,
        #[case] dns: &[&str],
        #[case] blamed: &str,
    ) {
        let why = network(cidr, gateway, dns).static_address().unwrap_err();
        assert!(why.starts_with(blamed), "{why}");
    }
}
