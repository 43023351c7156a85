//! Red Hat's subscription of a rhel guest.
//!
//! `subscription-manager` takes credentials as arguments only, which everyone on the guest can read in the list of
//! processes. So it is run inside a Python process that gives it its arguments from a file that only root can read.

use serde_json::{Value, json};

use super::guest::{File, mode};

/// Takes [`SETTINGS`] for its arguments.
pub(super) const SCRIPT: &str = "/opt/machinist/subscribe.py";
const SETTINGS: &str = "/opt/machinist/subscription.json";

/// The files of a guest that has a subscription; none where `operatingSystemSpec` holds no credentials.
pub(super) fn files(spec: &Value) -> Vec<File> {
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    let user = text("rhelSubscriptionManagerUser");
    let (organization, key) = (text("rhelOrganizationName"), text("rhelActivationKey"));
    let mut register: Vec<String> = if !organization.is_empty() && !key.is_empty() {
        vec![format!("--org={organization}"), format!("--activationkey={key}")]
    } else if !user.is_empty() {
        let password = text("rhelSubscriptionManagerPassword");
        vec![format!("--username={user}"), format!("--password={password}")]
    } else {
        return Vec::new();
    };
    register.insert(0, "register".to_owned());
    let server = text("rhelSatelliteServer");
    let satellite = (spec["rhelUseSatelliteServer"] == true && !server.is_empty()).then_some(server);
    let settings = json!({
        "register": register,
        "attach": spec["attachSubscription"] == true,
        "satellite": satellite,
    });
    vec![
        File::json(SETTINGS, mode::SECRET, &settings),
        File::new(
            SCRIPT,
            mode::PROGRAM,
            include_str!("../../templates/subscribe.py"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::a_key(json!({"rhelOrganizationName": "o", "rhelActivationKey": "sesame", "rhelSubscriptionManagerUser": "u"}),
        json!({"register": ["register", "--org=o", "--activationkey=sesame"], "attach": false, "satellite": null}))]
    #[case::a_user(json!({"rhelSubscriptionManagerUser": "u", "rhelSubscriptionManagerPassword": "sesame", "attachSubscription": true}),
        json!({"register": ["register", "--username=u", "--password=sesame"], "attach": true, "satellite": null}))]
    #[case::a_satellite(json!({"rhelOrganizationName": "o", "rhelActivationKey": "sesame", "rhelUseSatelliteServer": true, "rhelSatelliteServer": "s"}),
        json!({"register": ["register", "--org=o", "--activationkey=sesame"], "attach": false, "satellite": "s"}))]
    fn credentials_are_in_one_file_for_root_alone(#[case] spec: Value, #[case] want: Value) {
        let files = files(&spec);
        let settings: Value = serde_json::from_str(&files[0].content).unwrap();
        assert_eq!((settings, files[0].mode), (want, 0o600));
        assert!(!files[1].content.contains("sesame"));
    }

    #[test]
    fn without_credentials_there_is_nothing() {
        let spec = json!({"attachSubscription": true, "rhelOrganizationName": "", "rhelActivationKey": "k"});
        assert!(files(&spec).is_empty());
    }
}
