use clap::CommandFactory as _;
use clap::error::ErrorKind;
use machinist_shared::command_line::{faults, former_faults, reference};
use rstest::rstest;

use super::*;

fn read(args: &[&str]) -> Result<Told<Flags>, clap::Error> {
    Flags::read(
        std::iter::once("machinist-controller")
            .chain(args.iter().copied())
            .map(OsString::from),
    )
}

/// As `examples/machine-controller.yaml` of machine-controller has them.
const MANIFEST: &[&str] = &[
    "-log-debug=false",
    "-log-format=json",
    "-worker-count=5",
    "-node-csr-approver=true",
    "-cluster-dns=10.10.10.10",
    "-metrics-address=0.0.0.0:8080",
    "-health-probe-address=0.0.0.0:8085",
    "-join-cluster-timeout=25m",
];

#[test]
fn durations_are_read_as_go_writes_them() {
    assert_eq!(
        duration("25m"),
        Ok(OptionalDuration(Some(Duration::from_mins(25))))
    );
    assert_eq!(
        duration("1h30m"),
        Ok(OptionalDuration(Some(Duration::from_mins(90))))
    );
    assert_eq!(duration(""), Ok(OptionalDuration(None)));
    assert_eq!(duration("0"), Ok(OptionalDuration(Some(Duration::ZERO))));
    assert_eq!(duration("1h0m0s"), duration("1h"));
    assert_eq!(duration("1.5h"), duration("90m"));
    assert_eq!(
        duration("300ms"),
        Ok(OptionalDuration(Some(Duration::from_millis(300))))
    );
    assert!(duration("soon").unwrap_err().contains("25m"));
    assert!(duration("-5m").is_err());
}

#[test]
fn the_args_of_machine_controllers_manifest_are_taken() {
    let told = read(MANIFEST).unwrap();
    assert_eq!(told.notices, Vec::<String>::new());
    let flags = told.flags;
    assert_eq!(flags.join_cluster_timeout.0, Some(Duration::from_mins(25)));
    assert_eq!(flags.log_format, LogFormat::Json);
    assert_eq!(flags.worker_count, 5);
    assert_eq!(
        flags.cluster_dns,
        ["10.10.10.10".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(flags.metrics_address, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(flags.health_probe_address, "0.0.0.0:8085".parse().unwrap());
    assert!(flags.node_csr_approver && !flags.log_debug);
}

#[test]
fn every_flag_without_effect_is_taken_and_told() {
    for former in machine_controller::FLAGS
        .iter()
        .filter(|former| former.is_without_effect())
    {
        for (args, count) in [
            (vec![format!("-{}=x", former.name)], 16),
            (
                vec![format!("--{}=x", former.name), "-worker-count=5".to_owned()],
                5,
            ),
        ] {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let told = read(&args).unwrap();
            assert_eq!(
                (told.notices, told.flags.worker_count),
                (vec![former.to_string()], count)
            );
        }
    }
}

#[rstest]
#[case::bare(&["-enable-leader-election"], true)]
#[case::digit(&["-enable-leader-election=0"], false)]
#[case::apart(&["--enable-leader-election", "false"], false)]
fn leader_election_is_said_as_in_go(#[case] args: &[&str], #[case] want: bool) {
    assert_eq!(read(args).unwrap().flags.enable_leader_election, want);
}

#[test]
fn an_unknown_flag_is_refused_with_a_guess() {
    let error = read(&["-worker-cont=5"]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::UnknownArgument, 2));
    assert!(error.to_string().contains("--worker-count"), "{error}");
}

#[test]
fn an_empty_namespace_of_the_lease_is_kube_system() {
    let of = |arg| read(&[arg]).unwrap().flags.lease_namespace();
    assert_eq!(of("-leader-election-namespace="), "kube-system");
    assert_eq!(of("-leader-election-namespace=mine"), "mine");
}

#[test]
fn flags_are_in_the_environment_and_have_headings() {
    assert_eq!(faults(&Flags::command()), Vec::<String>::new());
    assert_eq!(
        former_faults(&Flags::command(), machine_controller::FLAGS),
        Vec::<String>::new()
    );
}

#[test]
fn the_reference_is_that_of_the_flags() {
    let document = include_str!("../../../docs/flags.md");
    let part = reference::part(Flags::command(), machine_controller::FLAGS);
    let want = reference::put(document, "machinist-controller", &part).unwrap();
    assert!(document == want, "docs/flags.md is stale; run: make flags");
}
