//! dnsmasq's file of leases: which address a network card was given.

/// The address that was last given to this card. A line is `EXPIRY MAC ADDRESS NAME CLIENT`.
pub(crate) fn address<'a>(leases: &'a str, mac: &str) -> Option<&'a str> {
    let line = leases.lines().rfind(|line| {
        line.split(' ')
            .nth(1)
            .is_some_and(|found| found.eq_ignore_ascii_case(mac))
    })?;
    line.split(' ').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_of_a_card_is_found_by_its_hardware_address() {
        let leases = "1795500000 02:aa:00:00:00:01 10.201.3.4 web-1 ff:56\n\
                      1795500001 02:aa:00:00:00:02 10.201.3.5 * 01:02\n";
        assert_eq!(address(leases, "02:AA:00:00:00:02"), Some("10.201.3.5"));
        assert_eq!(address(leases, "02:aa:00:00:00:03"), None);
        assert_eq!(address("", "02:aa:00:00:00:03"), None);
    }
}
