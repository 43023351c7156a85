//! Metrics that each server has.

use prometheus::{IntGaugeVec, Opts, Registry};

/// Registers the version of the build and, on Linux, figures of the process: CPU, memory, open files and start time.
pub fn register(registry: &Registry, version: &str) -> Result<(), prometheus::Error> {
    let about = "Always 1; the version of the build is a label.";
    let build = IntGaugeVec::new(Opts::new("machinist_build_info", about), &["version"])?;
    build.with_label_values(&[version]).set(1);
    registry.register(Box::new(build))?;
    // The plugin is built for other systems, too.
    #[cfg(target_os = "linux")]
    registry.register(Box::new(
        prometheus::process_collector::ProcessCollector::for_self(),
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn the_version_and_the_process_are_exported() {
        let registry = Registry::new();
        register(&registry, "1.2.3").unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(
            text.contains("machinist_build_info{version=\"1.2.3\"} 1\n"),
            "{text}"
        );
        for name in [
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ] {
            let mut values = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let value: f64 = values.next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{name} is {value}");
        }
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
    }
}
