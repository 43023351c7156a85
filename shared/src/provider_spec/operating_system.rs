//! Operating systems, and the defaults of `operatingSystemSpec`.

use std::fmt;

use serde_json::{Value, json};

use crate::api::decode::json_type;
use crate::api::did_you_mean::did_you_mean;
use crate::api::field::{FieldPath, Report};

/// An operating system that user data can be generated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperatingSystem {
    /// Ubuntu.
    Ubuntu,
    /// Amazon Linux 2. Known to the API, but no image of it runs on KubeVirt.
    AmazonLinux2,
    /// Red Hat Enterprise Linux.
    Rhel,
    /// Flatcar Container Linux.
    Flatcar,
    /// Rocky Linux.
    RockyLinux,
}

impl OperatingSystem {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Ubuntu,
        Self::AmazonLinux2,
        Self::Rhel,
        Self::Flatcar,
        Self::RockyLinux,
    ];

    /// The operating system with that exact name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|os| os.as_str() == name)
    }

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ubuntu => "ubuntu",
            Self::AmazonLinux2 => "amzn2",
            Self::Rhel => "rhel",
            Self::Flatcar => "flatcar",
            Self::RockyLinux => "rockylinux",
        }
    }

    /// Settings that are true or false, and those that are texts, of the built-in bootstrap and operating-system-manager.
    pub(crate) fn settings(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Ubuntu | Self::RockyLinux | Self::AmazonLinux2 => (&["distUpgradeOnBoot"], &[]),
            Self::Rhel => (
                &[
                    "distUpgradeOnBoot",
                    "attachSubscription",
                    "rhelUseSatelliteServer",
                ],
                &[
                    "rhelSubscriptionManagerUser",
                    "rhelSubscriptionManagerPassword",
                    "rhsmOfflineToken",
                    "rhelSatelliteServer",
                    "rhelOrganizationName",
                    "rhelActivationKey",
                ],
            ),
            Self::Flatcar => (
                &["disableAutoUpdate", "disableLocksmithD", "disableUpdateEngine"],
                &["provisioningUtility"],
            ),
        }
    }

    /// Warns at `path` of settings of `operatingSystemSpec` that have no effect, or count as false.
    pub fn warn_settings(self, spec: Option<&Value>, path: &FieldPath, report: &mut Report) {
        let (flags, texts) = self.settings();
        for (key, value) in spec.and_then(Value::as_object).into_iter().flatten() {
            let path = path.child(key);
            if flags.contains(&key.as_str()) {
                if !value.is_boolean() && !value.is_null() {
                    report.warn(
                        &path,
                        format!("{value} counts as false; write true or false without quotes"),
                    );
                }
            } else if texts.contains(&key.as_str()) {
                if !value.is_string() && !value.is_null() {
                    report.warn(
                        &path,
                        format!("must be a string, not {}, and is ignored", json_type(value)),
                    );
                }
            } else {
                let hint = did_you_mean(key, flags.iter().chain(texts).copied());
                report.warn(&path, format!("unknown setting {key:?} of {self}, ignored{hint}"));
            }
        }
        let utility = spec.and_then(|spec| spec.get("provisioningUtility")?.as_str());
        if let (Self::Flatcar, Some(utility)) = (self, utility)
            && !["", "ignition", "cloud-init"].contains(&utility)
        {
            let path = path.child("provisioningUtility");
            report.warn(
                &path,
                format!("{utility:?} is neither ignition nor cloud-init; ignition is used"),
            );
        }
    }

    /// The value of `operatingSystemSpec` after admission; `None` if it is unchanged.
    ///
    /// An object, even an empty one, is not changed, except on Flatcar: there it is always completed, and keys without
    /// meaning are dropped.
    pub fn default_spec(self, current: Option<&Value>) -> Option<Value> {
        let absent = current.is_none_or(Value::is_null);
        let spec = match self {
            Self::Flatcar => flatcar_spec(current),
            _ if !absent => return None,
            Self::Ubuntu | Self::RockyLinux | Self::AmazonLinux2 => json!({ "distUpgradeOnBoot": false }),
            Self::Rhel => json!({
                "distUpgradeOnBoot": false,
                "attachSubscription": false,
                "rhelUseSatelliteServer": false,
                "rhelSatelliteServer": "",
                "rhelOrganizationName": "",
                "rhelActivationKey": "",
            }),
        };
        (current != Some(&spec)).then_some(spec)
    }
}

impl fmt::Display for OperatingSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Values of a wrong type count as unset, as in machine-controller.
fn flatcar_spec(current: Option<&Value>) -> Value {
    let get = |key: &str| {
        let map = current?.as_object()?;
        map.get(key).or_else(|| {
            map.iter()
                .find(|(k, _)| k.eq_ignore_ascii_case(key))
                .map(|(_, v)| v)
        })
    };
    let flag = |key: &str| get(key).and_then(Value::as_bool).unwrap_or(false);
    let utility = get("provisioningUtility")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    json!({
        "disableAutoUpdate": flag("disableAutoUpdate"),
        "disableLocksmithD": flag("disableLocksmithD"),
        "disableUpdateEngine": flag("disableUpdateEngine"),
        "provisioningUtility": utility.unwrap_or("ignition"),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::ubuntu_gets_one_flag("ubuntu", None, Some(json!({"distUpgradeOnBoot": false})))]
    #[case::null_is_absent("rockylinux", Some(json!(null)), Some(json!({"distUpgradeOnBoot": false})))]
    #[case::an_empty_object_is_present("ubuntu", Some(json!({})), None)]
    #[case::unknown_keys_stay("amzn2", Some(json!({"x": 1})), None)]
    #[case::rhel_keeps_what_is_there("rhel", Some(json!({"distUpgradeOnBoot": true})), None)]
    #[case::flatcar_is_completed("flatcar", Some(json!({"disableAutoUpdate": true, "distUpgradeOnBoot": true})),
        Some(json!({"disableAutoUpdate": true, "disableLocksmithD": false, "disableUpdateEngine": false, "provisioningUtility": "ignition"})))]
    #[case::flatcar_of_a_wrong_type_is_replaced("flatcar", Some(json!("x")),
        Some(json!({"disableAutoUpdate": false, "disableLocksmithD": false, "disableUpdateEngine": false, "provisioningUtility": "ignition"})))]
    #[case::a_complete_flatcar_spec_stays("flatcar",
        Some(json!({"disableAutoUpdate": false, "disableLocksmithD": false, "disableUpdateEngine": false, "provisioningUtility": "cloud-init"})), None)]
    fn the_spec_is_defaulted_by_operating_system(
        #[case] os: &str,
        #[case] current: Option<Value>,
        #[case] want: Option<Value>,
    ) {
        assert_eq!(
            OperatingSystem::parse(os).unwrap().default_spec(current.as_ref()),
            want
        );
    }

    #[test]
    fn rhel_gets_its_six_fields() {
        let spec = OperatingSystem::Rhel.default_spec(None).unwrap();
        assert_eq!(spec.as_object().unwrap().len(), 6);
        assert_eq!(OperatingSystem::Rhel.default_spec(Some(&spec)), None);
    }

    #[test]
    fn names_are_exact() {
        assert_eq!(OperatingSystem::parse("Ubuntu"), None);
        assert!(
            ["ubuntu", "rhel", "flatcar", "rockylinux"]
                .iter()
                .all(|name| OperatingSystem::parse(name).is_some())
        );
    }

    #[rstest]
    #[case::text_for_true("ubuntu", json!({"distUpgradeOnBoot": "yes"}), "distUpgradeOnBoot: \"yes\" counts as false")]
    #[case::quoted("rhel", json!({"attachSubscription": "true"}), "attachSubscription: \"true\" counts as false")]
    #[case::number("rockylinux", json!({"distUpgradeOnBoot": 1}), "distUpgradeOnBoot: 1 counts as false")]
    #[case::misspelled("ubuntu", json!({"distUpgradeOnBot": true}), "did you mean \"distUpgradeOnBoot\"?")]
    #[case::in_capitals("ubuntu", json!({"DistUpgradeOnBoot": true}), "did you mean \"distUpgradeOnBoot\"?")]
    #[case::of_another_system("ubuntu", json!({"rhelActivationKey": "k"}), "unknown setting \"rhelActivationKey\" of ubuntu")]
    #[case::number_for_text("rhel", json!({"rhelOrganizationName": 12345}), "must be a string, not a number")]
    #[case::flatcars_flag("flatcar", json!({"disableAutoUpdate": "true"}), "disableAutoUpdate: \"true\" counts as false")]
    #[case::flatcars_utility("flatcar", json!({"provisioningUtility": "cloudinit"}), "neither ignition nor cloud-init")]
    fn a_setting_that_has_no_effect_is_reported(#[case] os: &str, #[case] spec: Value, #[case] why: &str) {
        let mut report = Report::new();
        let path = FieldPath::new("spec");
        OperatingSystem::parse(os)
            .unwrap()
            .warn_settings(Some(&spec), &path, &mut report);
        let [warning] = report.warnings.as_slice() else {
            panic!("{:?}", report.warnings)
        };
        assert!(warning.contains(why), "{warning}");
    }

    #[test]
    fn what_admission_writes_is_not_reported() {
        for os in OperatingSystem::ALL {
            let mut report = Report::new();
            os.warn_settings(
                os.default_spec(None).as_ref(),
                &FieldPath::new("spec"),
                &mut report,
            );
            assert_eq!(report.warnings, [""; 0], "{os}");
        }
    }
}
