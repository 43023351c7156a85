use clap::CommandFactory as _;
use clap::error::ErrorKind;
use machinist_command_line::{faults, legacy_faults, reference};
use rstest::rstest;

use super::*;

fn read(args: &[&str]) -> Result<Parsed<Flags>, clap::Error> {
    Flags::read(
        std::iter::once("machinist-webhook")
            .chain(args.iter().copied())
            .map(OsString::from),
    )
}

#[test]
fn the_defaults_are_those_of_the_rules() {
    let flags = Flags::parse_from(["machinist-webhook"]);
    let (settings, want) = (flags.settings(&Env::new(|_| None)), AdmissionSettings::default());
    assert_eq!(settings.infra_namespace, want.infra_namespace);
    assert_eq!(settings.feature_gates, want.feature_gates);
    assert_eq!(settings.external_cloud_provider, want.external_cloud_provider);
    assert_eq!(
        settings.version_constraint.to_string(),
        want.version_constraint.to_string()
    );
    assert_eq!(
        settings.controller_users,
        ["system:serviceaccount:machinist-system:machinist-controller"]
    );
}

#[test]
fn booleans_are_taken_with_and_without_a_value() {
    for (arguments, want) in [
        (vec!["--infra-allow-loopback"], true),
        (vec!["--infra-allow-loopback=false"], false),
    ] {
        let flags = Flags::parse_from([vec!["machinist-webhook"], arguments].concat());
        assert_eq!(flags.infra_allow_loopback, want);
    }
}

#[test]
fn users_of_several_controllers_may_be_named() {
    let flags = Flags::parse_from(["machinist-webhook", "--controller-user=a", "--controller-user=b"]);
    assert_eq!(flags.settings(&Env::new(|_| None)).controller_users, ["a", "b"]);
}

#[test]
fn the_args_of_machine_controllers_manifest_are_taken() {
    let parsed = read(&[
        "-log-debug=false",
        "-log-format=json",
        "-namespace=kube-system",
        "-listen-address=0.0.0.0:9876",
    ])
    .unwrap();
    assert_eq!(parsed.notices.len(), 1, "{:?}", parsed.notices);
    assert!(
        parsed.notices[0].starts_with("--namespace has no effect: "),
        "{:?}",
        parsed.notices
    );
    assert_eq!(parsed.flags.listen_address, "0.0.0.0:9876".parse().unwrap());
    assert!(!parsed.flags.log_debug);
}

#[rstest]
#[case::by_name("localhost:9876", "127.0.0.1:9876")]
#[case::without_a_port("0.0.0.0:", "0.0.0.0:9443")]
fn an_address_is_taken_as_machine_controller_takes_it(#[case] text: &str, #[case] want: &str) {
    let parsed = read(&[&format!("-listen-address={text}")]).unwrap();
    assert_eq!(parsed.flags.listen_address, want.parse().unwrap());
}

#[rstest]
#[case::misspelled("-listen-adress=:1", Some("--listen-address"))]
#[case::a_flag_of_the_controller_only("-node-pause-image=x", None)]
fn an_unknown_flag_is_refused(#[case] arg: &str, #[case] guess: Option<&str>) {
    let error = read(&[arg]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::UnknownArgument, 2));
    assert!(error.to_string().contains(guess.unwrap_or_default()), "{error}");
}

#[rstest]
#[case::none(&[], ("", ""))]
#[case::kubeconfig_and_server(&["-kubeconfig=a", "-master=http://b"], ("a", "http://b"))]
#[case::worker_cluster(&["-kubeconfig=a", "-master=http://b", "-worker-cluster-kubeconfig", "c"], ("c", ""))]
fn the_cluster_of_the_machines_is_the_one_that_is_asked(#[case] args: &[&str], #[case] want: (&str, &str)) {
    let flags = read(args).unwrap().flags;
    let cluster = flags.user_cluster();
    assert_eq!((cluster.kubeconfig, cluster.server), want);
}

#[test]
fn flags_are_in_the_environment_and_have_headings() {
    assert_eq!(faults(&Flags::command()), Vec::<String>::new());
    assert_eq!(
        legacy_faults(&Flags::command(), machine_controller::FLAGS),
        Vec::<String>::new()
    );
}

#[test]
fn the_reference_is_that_of_the_flags() {
    let document = include_str!("../../../docs/flags.md");
    let part = reference::part(Flags::command(), machine_controller::FLAGS);
    let want = reference::put(document, "machinist-webhook", &part).unwrap();
    assert!(document == want, "docs/flags.md is stale; run: make flags");
}

#[test]
fn fields_that_the_environment_sets_are_known_to_admission() {
    let flags = read(&[]).unwrap().flags;
    let overridden = |name: &'static str| {
        let env = Env::new(move |new_object| (new_object == name).then(|| "set".to_owned()));
        let overridden = flags.settings(&env).overridden;
        (overridden.cluster_name, overridden.project_id)
    };
    assert_eq!(overridden("CLUSTER_ID"), (true, false));
    assert_eq!(overridden("PROJECT_ID"), (false, true));
    assert_eq!(overridden("POD_NAMESPACE"), (false, false));
}
