//! `providerSpec.value.network` inside the guest: IP families of the Node, and a static address.
//!
//! KubeVirt gives a guest its address by DHCP; a static one is for networks whose addresses another client plans.

use std::fmt::Write as _;

use machinist_shared::provider_spec::network::{Network, StaticAddress};

use super::guest::{File, mode};

/// IP families of a Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Families {
    /// As the kubelet finds: the default route's interface, IPv4 first.
    Ipv4,
    /// IPv6 first.
    Ipv6,
    /// Both, IPv4 first.
    Ipv4First,
    /// Both, IPv6 first.
    Ipv6First,
}

impl Families {
    /// What [`NODE_IP_SCRIPT`] is reported both: which comes first.
    pub(super) fn both(self) -> Option<&'static str> {
        match self {
            Self::Ipv4 | Self::Ipv6 => None,
            Self::Ipv4First => Some("-4"),
            Self::Ipv6First => Some("-6"),
        }
    }
}

/// Of a spec; what it does not know is IPv4, as ever.
pub(super) fn families(network: Option<&Network>) -> Families {
    match network.map_or("", |network| network.ip_family.as_str()) {
        "IPv6" => Families::Ipv6,
        "IPv4+IPv6" => Families::Ipv4First,
        "IPv6+IPv4" => Families::Ipv6First,
        _ => Families::Ipv4,
    }
}

/// Writes the Node's two addresses to [`NODE_IP_FILE`], as [`NODE_IP`], before each start of the kubelet.
pub(super) const NODE_IP_SCRIPT: &str = "/opt/machinist/node-ip.sh";
/// An EnvironmentFile of the kubelet.
pub(super) const NODE_IP_FILE: &str = "/run/machinist/node-ip";
/// The variable in it.
pub(super) const NODE_IP: &str = "NODE_IP";

/// The script.
pub(super) fn node_ip_script() -> File {
    let text = include_str!("../../templates/node-ip.sh");
    File::new(NODE_IP_SCRIPT, mode::PROGRAM, text)
}

/// The files that give the guest a static address, for systemd-networkd and for NetworkManager: the one that the image
/// has reads its own. One that is of no use has never been refused, and is left out; admission has warned.
pub(super) fn files(network: Option<&Network>) -> Vec<File> {
    let address = network.and_then(|network| network.static_address().ok().flatten());
    let Some(address) = address else {
        return Vec::new();
    };
    vec![
        File::new(
            "/etc/systemd/network/05-machinist.network",
            mode::PUBLIC,
            networkd(&address),
        ),
        File::new(
            "/etc/NetworkManager/system-connections/machinist.nmconnection",
            mode::SECRET,
            network_manager(&address),
        ),
    ]
}

/// Real interfaces only: those of pods are virtual, and have a kind.
fn networkd(address: &StaticAddress) -> String {
    let StaticAddress {
        ip,
        prefix,
        gateway,
        name_servers,
    } = address;
    // The other family stays as the network offers it: IPv6 by router advertisements.
    let dhcp = if ip.is_ipv6() { "ipv4" } else { "no" };
    let mut text = format!("[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP={dhcp}\nAddress={ip}/{prefix}\n");
    if let Some(gateway) = gateway {
        // Writing to memory does not fail.
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for server in name_servers {
        let _ = writeln!(text, "DNS={server}");
    }
    text
}

fn network_manager(address: &StaticAddress) -> String {
    let StaticAddress {
        ip,
        prefix,
        gateway,
        name_servers,
    } = address;
    let section = |family: &str, own: bool| {
        let mut text = format!("\n[{family}]\n");
        if own {
            let _ = writeln!(text, "method=manual\naddress1={ip}/{prefix}");
            if let Some(gateway) = gateway {
                let _ = writeln!(text, "gateway={gateway}");
            }
        } else {
            // The other family stays as the network offers it.
            text.push_str("method=auto\nmay-fail=true\n");
        }
        let of_family = name_servers.iter().filter(|s| s.is_ipv4() == (family == "ipv4"));
        let servers: Vec<String> = of_family.map(ToString::to_string).collect();
        if !servers.is_empty() {
            let _ = writeln!(text, "dns={};", servers.join(";"));
        }
        text
    };
    // The highest priority that there is, so that no profile with DHCP, as cloud-init writes one, wins at the next boot.
    format!(
        "[connection]\nid=machinist\ntype=ethernet\nautoconnect=true\nautoconnect-priority=999\n{}{}",
        section("ipv4", ip.is_ipv4()),
        section("ipv6", ip.is_ipv6())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn network(cidr: &str, gateway: &str, dns: &[&str]) -> Network {
        Network {
            cidr: cidr.to_owned(),
            gateway: gateway.to_owned(),
            dns_servers: dns.iter().map(|&s| s.to_owned()).collect(),
            ip_family: String::new(),
        }
    }

    #[rstest]
    #[case("", Families::Ipv4)]
    #[case("IPv4", Families::Ipv4)]
    #[case("IPv6", Families::Ipv6)]
    #[case("IPv4+IPv6", Families::Ipv4First)]
    #[case("IPv6+IPv4", Families::Ipv6First)]
    #[case("IPv5", Families::Ipv4)]
    fn families_are_reported_by_name(#[case] name: &str, #[case] want: Families) {
        let network = Network {
            ip_family: name.to_owned(),
            ..Network::default()
        };
        assert_eq!(families(Some(&network)), want);
        assert_eq!(families(None), Families::Ipv4);
    }

    #[test]
    fn a_static_address_is_written_for_both_network_services() {
        let files = files(Some(&network(
            "10.0.0.5/24",
            "10.0.0.1",
            &["10.0.0.2", "fd00::2"],
        )));
        let [networkd, manager] = files.as_slice() else {
            panic!("{} files", files.len());
        };
        assert!(networkd.content.ends_with(
            "[Network]\nDHCP=no\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.2\nDNS=fd00::2\n"
        ));
        assert!(manager.content.contains(
            "[ipv4]\nmethod=manual\naddress1=10.0.0.5/24\ngateway=10.0.0.1\ndns=10.0.0.2;\n\n[ipv6]\nmethod=auto\nmay-fail=true\ndns=fd00::2;\n"
        ), "{}", manager.content);
        assert_eq!(manager.mode, 0o600, "NetworkManager reads no other");
    }

    #[test]
    fn a_static_ipv6_address_leaves_ipv4_to_the_network() {
        let files = files(Some(&network("fd00::5/64", "fd00::1", &[])));
        let [networkd, manager] = files.as_slice() else {
            panic!("{} files", files.len());
        };
        assert!(
            networkd
                .content
                .ends_with("[Network]\nDHCP=ipv4\nAddress=fd00::5/64\nGateway=fd00::1\n")
        );
        assert!(manager.content.contains("[ipv4]\nmethod=auto\n"));
    }

    #[test]
    fn an_address_that_is_of_no_use_is_left_out() {
        assert!(files(Some(&network("10.0.0.5", "", &[]))).is_empty());
        assert!(files(None).is_empty());
    }
}
