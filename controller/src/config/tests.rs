use std::time::Duration;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use machinist_command_line::{faults, legacy_faults, reference};
use rstest::rstest;

use super::*;

fn read(args: &[&str]) -> Result<Parsed<Flags>, clap::Error> {
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
    assert_eq!(flags.cluster_dns(), ["10.10.10.10".parse::<IpAddr>().unwrap()]);
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
#[case::none_given(&[], &[], 0)]
#[case::empty(&["-cluster-dns="], &[], 0)]
#[case::several(&["-cluster-dns=10.0.0.1,fd00::1"], &["10.0.0.1", "fd00::1"], 0)]
#[case::with_a_name(&["-cluster-dns=10.0.0.1", "-cluster-dns=dns.example.com"], &["10.0.0.1"], 1)]
#[case::a_name_only(&["-cluster-dns=dns.example.com"], &[], 1)]
fn whatever_machine_controller_takes_for_the_dns_is_taken(
    #[case] args: &[&str],
    #[case] want: &[&str],
    #[case] notices: usize,
) {
    let told = read(args).unwrap();
    let found: Vec<_> = told.flags.cluster_dns().iter().map(ToString::to_string).collect();
    assert_eq!(
        (&*found, told.notices.len()),
        (
            &*want.iter().map(ToString::to_string).collect::<Vec<_>>(),
            notices
        )
    );
}

#[rstest]
#[case::metrics("-metrics-address", |flags: &Flags| flags.metrics_address)]
#[case::probes("-health-probe-address", |flags: &Flags| flags.health_probe_address)]
fn localhost_is_taken_for_an_address(#[case] flag: &str, #[case] of: fn(&Flags) -> SocketAddr) {
    let told = read(&[&format!("{flag}=localhost:8080")]).unwrap();
    assert_eq!(of(&told.flags), "127.0.0.1:8080".parse().unwrap());
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
fn the_lease_is_machine_controllers_whatever_the_name_unless_another_is_given() {
    let of = |args: &[&str]| read(args).unwrap().flags.lease();
    assert_eq!(of(&[]), "machine-controller");
    assert_eq!(of(&["-name=green"]), "machine-controller");
    assert_eq!(of(&["--leader-election-lease="]), "machine-controller");
    assert_eq!(of(&["--leader-election-lease=green"]), "green");
}

#[test]
fn flags_are_in_the_environment_and_have_headings() {
    assert_eq!(faults(&Flags::command()), Vec::<String>::new());
    assert_eq!(
        legacy_faults(&Flags::command(), machine_controller::FLAGS),
        Vec::<String>::new()
    );
}

#[rstest]
#[case::of_nothing("--webhook-ca-lifetime=0", "must be more than zero")]
#[case::of_no_time("--webhook-certificate-overlap=", "must be more than zero")]
#[case::without_a_namespace("--webhook-serving-secret=cert", "is not like namespace/name")]
#[case::no_name(
    "--webhook-certificate-names=a.svc,https://b",
    "\"https://b\" is neither a DNS name nor an IP address"
)]
fn what_no_certificate_can_be_made_of_is_refused(#[case] arg: &str, #[case] want: &str) {
    let error = read(&[arg]).unwrap_err().to_string();
    assert!(error.contains(want), "{error}");
}

#[test]
fn the_reference_is_that_of_the_flags() {
    let document = include_str!("../../../docs/flags.md");
    let part = reference::part(Flags::command(), machine_controller::FLAGS);
    let want = reference::put(document, "machinist-controller", &part).unwrap();
    assert!(document == want, "docs/flags.md is stale; run: make flags");
}
