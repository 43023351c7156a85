//! Where a Machine's user data comes from: Machinist itself, or operating-system-manager.

pub use machinist_shared::api::bootstrap_mode::{BootstrapMode as Mode, ModeError};

/// What is above a Machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Above<'a> {
    /// No MachineDeployment: the Machine stands alone, or its MachineSet does.
    Nothing,
    /// Something whose object has not been seen yet; which.
    Unseen(&'a str),
    /// A MachineDeployment.
    Deployment(Deployment<'a>),
}

/// A MachineDeployment, and the MachineSet between it and the Machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment<'a> {
    /// Name of the MachineDeployment.
    pub name: &'a str,
    /// Its operating system profile.
    pub profile: Option<&'a str>,
    /// Revision of the MachineSet.
    pub revision: Option<&'a str>,
}

/// Who makes a Machine's user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Machinist.
    Builtin,
    /// operating-system-manager, for this MachineDeployment.
    Osm(Deployment<'a>),
    /// operating-system-manager should, but makes none without a MachineDeployment.
    NoDeployment,
    /// It cannot be determined before this has been seen.
    Unseen(&'a str),
}

/// Chooses. Nothing is ever chosen by waiting a while: a profile that is there means that its Secret will be.
pub fn choose(mode: Mode, above: Above<'_>) -> Choice<'_> {
    match (mode, above) {
        (Mode::Builtin, _) | (Mode::Auto, Above::Nothing) => Choice::Builtin,
        (Mode::Osm, Above::Nothing) => Choice::NoDeployment,
        (_, Above::Unseen(what)) => Choice::Unseen(what),
        (Mode::Osm, Above::Deployment(deployment)) => Choice::Osm(deployment),
        (Mode::Auto, Above::Deployment(deployment)) => {
            if deployment.profile.is_some_and(|profile| !profile.is_empty()) {
                Choice::Osm(deployment)
            } else {
                Choice::Builtin
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use machinist_shared::api::names::BOOTSTRAP_MODES;

    use super::*;
    use rstest::rstest;

    fn deployment(profile: Option<&str>) -> Above<'_> {
        Above::Deployment(Deployment {
            name: "web",
            profile,
            revision: Some("1"),
        })
    }

    fn name(choice: Choice<'_>) -> &'static str {
        match choice {
            Choice::Builtin => "builtin",
            Choice::Osm(_) => "osm",
            Choice::NoDeployment => "no deployment",
            Choice::Unseen(_) => "unseen",
        }
    }

    #[rstest]
    #[case::a_machine_alone("auto", Above::Nothing, "builtin")]
    #[case::a_profile("auto", deployment(Some("osp-ubuntu")), "osm")]
    #[case::an_empty_profile("auto", deployment(Some("")), "builtin")]
    #[case::no_profile("auto", deployment(None), "builtin")]
    #[case::not_known_yet("auto", Above::Unseen("x"), "unseen")]
    #[case::osm_without_a_profile("osm", deployment(None), "osm")]
    #[case::osm_alone("osm", Above::Nothing, "no deployment")]
    #[case::osm_unseen("osm", Above::Unseen("x"), "unseen")]
    #[case::builtin_with_a_profile("builtin", deployment(Some("osp-ubuntu")), "builtin")]
    #[case::builtin_unseen("builtin", Above::Unseen("x"), "builtin")]
    fn the_mode_and_what_is_above_choose(#[case] mode: &str, #[case] above: Above<'_>, #[case] want: &str) {
        assert_eq!(name(choose(mode.parse().unwrap(), above)), want);
    }

    #[test]
    fn modes_are_reported_by_their_names_and_no_other() {
        for text in BOOTSTRAP_MODES {
            assert_eq!(text.parse::<Mode>().unwrap().to_string(), text);
        }
        assert!("OSM".parse::<Mode>().unwrap_err().to_string().contains("builtin"));
    }
}
