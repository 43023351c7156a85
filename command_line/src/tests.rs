use std::net::SocketAddr;

use clap::{CommandFactory as _, error::ErrorKind};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::value::{address, boolean};

#[derive(Debug, Parser)]
#[command(name = "server", version, args_override_self = true)]
struct Flags {
    /// How many.
    #[arg(long, default_value_t = 1, help_heading = heading::MACHINES, env = "MACHINIST_WORKER_COUNT")]
    worker_count: usize,
    /// Whose.
    #[arg(long, default_value = "", help_heading = heading::MACHINES, env = "MACHINIST_NAME")]
    name: String,
    /// Where.
    #[arg(long, default_value = ":1", value_parser = address, help_heading = heading::OBSERVABILITY, env = "MACHINIST_METRICS_ADDRESS")]
    metrics_address: SocketAddr,
    /// One | or the other.
    #[arg(
        long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true",
        value_parser = boolean, help_heading = heading::OBSERVABILITY, env = "MACHINIST_LOG_DEBUG"
    )]
    log_debug: bool,
}

const FORMERS: &[LegacyFlag] = &[
    LegacyFlag::same("name"),
    LegacyFlag::differs("worker-count", "otherwise"),
    LegacyFlag::no_effect("node-port-range", "it is unused"),
    LegacyFlag::boolean_without_effect("enable-profiling", "no | profile"),
];

fn read(args: &[&str]) -> Result<Parsed<Flags>, clap::Error> {
    parse(
        std::iter::once("server")
            .chain(args.iter().copied())
            .map(OsString::from),
        FORMERS,
    )
}

#[rstest]
#[case::one_dash(&["-worker-count=5"], 5)]
#[case::two_dashes(&["--worker-count=5"], 5)]
#[case::one_dash_and_a_space(&["-worker-count", "5"], 5)]
#[case::two_dashes_and_a_space(&["--worker-count", "5"], 5)]
#[case::the_last_wins(&["-worker-count=4", "--worker-count=5"], 5)]
#[case::not_given(&[], 1)]
fn values_are_read_as_go_reads_them(#[case] args: &[&str], #[case] want: usize) {
    assert_eq!(read(args).unwrap().flags.worker_count, want);
}

#[rstest]
#[case::bare(&["-log-debug"], true)]
#[case::bare_before_another(&["-log-debug", "-worker-count=5"], true)]
#[case::bare_after_false(&["-log-debug=false", "--log-debug"], true)]
#[case::long_false(&["-log-debug=false"], false)]
#[case::digit(&["--log-debug=0"], false)]
#[case::letter(&["-log-debug=F"], false)]
#[case::apart(&["--log-debug", "false"], false)]
fn booleans_need_no_value(#[case] args: &[&str], #[case] want: bool) {
    assert_eq!(read(args).unwrap().flags.log_debug, want);
}

#[rstest]
#[case::behind_equals(&["-name=-worker-count"], "-worker-count")]
#[case::with_equals(&["-name=a=b"], "a=b")]
#[case::empty(&["-name="], "")]
#[case::empty_and_apart(&["-name", "", "-log-debug"], "")]
fn values_are_left_as_they_are(#[case] args: &[&str], #[case] want: &str) {
    assert_eq!(read(args).unwrap().flags.name, want);
}

#[rstest]
#[case::behind_equals(&["-node-port-range=1-2", "-worker-count=5"], &["node-port-range"])]
#[case::apart(&["--node-port-range", "-1-2", "-worker-count=5"], &["node-port-range"])]
#[case::boolean_takes_no_next(&["-enable-profiling", "-worker-count=5"], &["enable-profiling"])]
#[case::once_each(
    &["-enable-profiling=true", "-worker-count=5", "-node-port-range=", "-enable-profiling"],
    &["enable-profiling", "node-port-range"]
)]
#[case::none(&["-worker-count=5"], &[])]
fn flags_without_effect_are_accepted_and_reported_once(#[case] args: &[&str], #[case] want: &[&str]) {
    let parsed = read(args).unwrap();
    assert_eq!(parsed.flags.worker_count, 5);
    let parsed: Vec<_> = parsed
        .notices
        .iter()
        .map(|notice| notice.split_once(" has no effect: ").unwrap().0)
        .collect();
    let want: Vec<_> = want.iter().map(|name| format!("--{name}")).collect();
    assert_eq!(parsed, want);
}

#[test]
fn notices_have_no_value() {
    let parsed = read(&[
        "-node-port-range=http://user:hunter2@proxy",
        "-enable-profiling=hunter2",
    ])
    .unwrap();
    assert!(
        !parsed.notices.concat().contains("hunter2"),
        "{:?}",
        parsed.notices
    );
}

#[rstest]
#[case::unknown(&["-worker-cont=5"], "--worker-count")]
#[case::unknown_boolean(&["-log-debg"], "--log-debug")]
fn an_unknown_flag_is_refused_with_a_guess(#[case] args: &[&str], #[case] guess: &str) {
    let error = read(args).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::UnknownArgument, 2));
    assert!(error.to_string().contains(guess), "{error}");
}

#[rstest]
#[case::no_flag(&["5"], ErrorKind::UnknownArgument)]
#[case::after_the_end_of_flags(&["--", "-worker-count=5"], ErrorKind::UnknownArgument)]
#[case::bad_boolean(&["-log-debug=maybe"], ErrorKind::ValueValidation)]
#[case::no_value(&["-worker-count"], ErrorKind::InvalidValue)]
#[case::go_style_help(&["-help"], ErrorKind::DisplayHelp)]
#[case::short_help(&["-h"], ErrorKind::DisplayHelp)]
#[case::go_style_version(&["-version"], ErrorKind::DisplayVersion)]
fn the_rest_is_clap(#[case] args: &[&str], #[case] want: ErrorKind) {
    assert_eq!(read(args).unwrap_err().kind(), want);
}

#[test]
fn faults_are_found() {
    assert_eq!(faults(&Flags::command()), Vec::<String>::new());
    let of = |arg: Arg| faults(&Command::new("x").arg(arg)).len();
    let good = || Arg::new("a").long("a-b").env("MACHINIST_A_B").help_heading("A");
    assert_eq!(of(good()), 0);
    assert_eq!(of(good().env("MACHINIST_AB")), 1);
    assert_eq!(of(good().help_heading(None::<&str>)), 1);
    assert_eq!(of(good().long("a-port").env("MACHINIST_A_PORT")), 1);

    assert_eq!(legacy_faults(&Flags::command(), FORMERS), Vec::<String>::new());
    let of = |former| legacy_faults(&Flags::command(), &[former]).len();
    assert_eq!(of(LegacyFlag::same("nome")), 1);
    assert_eq!(of(LegacyFlag::no_effect("name", "why")), 1);
}

#[test]
fn the_reference_has_every_flag() {
    insta::assert_snapshot!(reference::part(Flags::command(), FORMERS));
}

/// Arguments in our own syntax: two dashes, in every way a value may be given.
fn own_syntax() -> impl Strategy<Value = Vec<String>> {
    let value = "[ -~]{0,8}";
    let valued = prop::sample::select(vec!["worker-count", "name", "metrics-address"]);
    let name = "[a-z]{1,4}(-[a-z]{1,4}){0,2}";
    let arg = prop_oneof![
        (valued.clone(), value).prop_map(|(name, value)| vec![format!("--{name}={value}")]),
        (valued, value).prop_map(|(name, value)| vec![format!("--{name}"), value]),
        Just(vec!["--log-debug".to_owned()]),
        Just(vec!["--log-debug".to_owned(), "false".to_owned()]),
        Just(vec!["-h".to_owned()]),
        // Unknown ones are left to clap.
        name.prop_map(|name| vec![format!("--{name}=1")]),
        Just(vec!["--".to_owned()]),
    ];
    prop::collection::vec(arg, 0..8).prop_map(|args| args.concat())
}

fn rewritten(args: &[String]) -> Vec<OsString> {
    let valued = ["worker-count", "name", "metrics-address"].into_iter().collect();
    let args = std::iter::once("server".to_owned()).chain(args.iter().cloned());
    go::rewrite(args.map(OsString::from), &valued, FORMERS).args
}

proptest! {
    #[test]
    fn our_own_syntax_comes_through_unchanged(args in own_syntax()) {
        let want: Vec<OsString> = std::iter::once("server".to_owned()).chain(args.clone()).map(OsString::from).collect();
        prop_assert_eq!(rewritten(&args), want);
    }

    #[test]
    fn rewriting_twice_is_rewriting_once(args in prop::collection::vec("-{0,3}[a-z=-]{0,6}|-name|-enable-profiling|-node-port-range", 0..8)) {
        let once = rewritten(&args);
        let again: Vec<String> = once[1..].iter().map(|arg| arg.to_str().unwrap().to_owned()).collect();
        prop_assert_eq!(rewritten(&again), once);
    }
}
