//! The program's arguments and environment. Every run ends at a kubeconfig that is not there, with 1; wrong flags end it
//! before that, with 2.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; helpers outside of test functions are no exception"
)]

use std::process::{Command, Output, Stdio};

fn run(variables: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_machinist-controller"))
        .env_clear()
        .envs(variables.iter().copied())
        .args([
            "-metrics-address=127.0.0.1:0",
            "-health-probe-address=127.0.0.1:0",
            "-kubeconfig=/nowhere/kubeconfig",
        ])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn flags_are_read_from_the_environment_and_win_over_it() {
    let (code, said) = run(&[("MACHINIST_WORKER_COUNT", "many")], &[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("many"), "{said}");
    let (code, said) = run(&[("MACHINIST_WORKER_COUNT", "many")], &["-worker-count=5"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nowhere/kubeconfig"), "{said}");
}

#[test]
fn a_flag_without_effect_is_reported_in_one_line_of_the_log_without_its_value() {
    let (code, said) = run(&[], &["-node-http-proxy=hunter2", "-node-http-proxy", "hunter2"]);
    assert_eq!(code, Some(1), "{said}");
    let told: Vec<_> = said
        .lines()
        .filter(|line| line.contains("--node-http-proxy has no effect: "))
        .collect();
    assert_eq!(told.len(), 1, "{said}");
    assert!(told[0].contains("\"level\":\"WARN\""), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_unknown_flag_ends_the_program_with_2() {
    let (code, said) = run(&[], &["-no-such-flag"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--no-such-flag"), "{said}");
}
