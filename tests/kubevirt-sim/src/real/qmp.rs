//! QEMU's monitor protocol, as far as a power switch needs it.

use serde::Deserialize;

/// Must come first.
pub(crate) const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n";
/// Presses the power button.
pub(crate) const POWER_BUTTON: &[u8] = b"{\"execute\":\"system_powerdown\"}\n";
/// Switches the machine off at once.
pub(crate) const QUIT: &[u8] = b"{\"execute\":\"quit\"}\n";

#[derive(Deserialize)]
struct Message {
    event: String,
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(default)]
    reason: String,
}

/// The reason of a shutdown, if the line reports one: QEMU's `ShutdownCause`.
pub(crate) fn shutdown(line: &str) -> Option<String> {
    let message: Message = serde_json::from_str(line).ok()?;
    (message.event == "SHUTDOWN").then_some(message.data.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shutdown_is_one() {
        let line = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#;
        assert_eq!(shutdown(line).as_deref(), Some("guest-shutdown"));
        assert_eq!(shutdown(r#"{"event":"POWERDOWN"}"#), None);
        assert_eq!(shutdown(r#"{"return":{}}"#), None);
        assert_eq!(shutdown("not JSON"), None);
    }
}
