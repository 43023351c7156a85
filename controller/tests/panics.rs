//! What a panic writes to the log.

use std::process::Command;

use machinist_infra::telemetry::LogFormat;
use machinist_infra::telemetry::{self, Endpoint, TelemetryOptions};

const CHILD: &str = "MACHINIST_TEST_PANICS";

#[test]
fn a_panic_tells_its_place_and_not_its_message() {
    if std::env::var_os(CHILD).is_some() {
        let settings = TelemetryOptions {
            service: "panics",
            version: "0",
            format: LogFormat::Json,
            level: "info",
            collector: &Endpoint::default(),
        };
        let _telemetry = telemetry::start(&settings).unwrap();
        panic!("sesame");
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_panic_tells_its_place_and_not_its_message",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(log.contains(r#""place":"controller/tests/panics.rs:"#), "{log}");
    assert!(!log.contains("sesame"), "{log}");
}
