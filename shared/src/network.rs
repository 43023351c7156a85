//! `providerSpec.value.network`: decoded strictly, and of no effect on KubeVirt.

use crate::decode::Field;
use crate::field::Report;

/// Static network settings. KubeVirt takes addresses from the pod network, so nothing here is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Address and mask.
    pub cidr: String,
    /// Default gateway.
    pub gateway: String,
    /// Name servers.
    pub dns_servers: Vec<String>,
    /// `""`, `IPv4`, `IPv6`, `IPv4+IPv6` or `IPv6+IPv4`; not checked, as KubeVirt does not use it.
    pub ip_family: String,
}

impl Network {
    /// Reads `field`; unknown keys are errors.
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
        if network.is_static() {
            report.warn(
                &field.path,
                "static addresses have no effect with provider kubevirt",
            );
        }
        Some(network)
    }

    /// Whether it asks for static addresses.
    pub fn is_static(&self) -> bool {
        !self.cidr.is_empty() || !self.gateway.is_empty() || !self.dns_servers.is_empty()
    }
}
