//! The lifecycle of one real guest: from its disk to the exit of its process, resets included.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::host::{self, Host, ProgramError};
use super::machine::{Machine, NetworkCard};
use super::{BRIDGE, GuestExit, Hardware, qmp, seed};

/// From the power button to the forced power off. KubeVirt waits for `terminationGracePeriodSeconds`; an emulated guest
/// needs up to 73 s.
const GRACE: Duration = Duration::from_mins(2);
/// A guest that is still booting does not hear the power button: it is pressed again.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// How often the leases are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A real guest that is not on yet.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Name of its VM.
    pub(crate) vm: String,
    /// Namespace of its VM.
    pub(crate) namespace: String,
    /// Its host name by the NoCloud metadata.
    pub(crate) hostname: String,
    /// Its user data, as the Secret has it.
    pub(crate) user_data: Vec<u8>,
    /// Folder of its disks, which outlive it.
    pub(crate) disks: PathBuf,
    /// The firmware's UUID.
    pub(crate) uuid: String,
    /// CPUs.
    pub(crate) cpus: u64,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// Its network card.
    pub(crate) card: NetworkCard,
    /// Presses its power button.
    pub(crate) power_off: CancellationToken,
}

/// Why a real guest is not switched on.
#[derive(Debug, Error)]
pub(crate) enum BootError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file could not be read or written.
    #[error("cannot prepare the guest's disks: {0}")]
    Disks(#[from] std::io::Error),
}

/// What follows the end of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Again,
    End(GuestExit),
}

/// `reason` is QEMU's for the last shutdown; none if its process was killed.
fn next(reason: Option<&str>, panicked: bool) -> Next {
    match reason {
        _ if panicked => Next::End(GuestExit::Crashed),
        // libvirt starts a domain again that was reset.
        Some("guest-reset" | "subsystem-reset") => Next::Again,
        Some("guest-shutdown" | "host-qmp-quit") => Next::End(GuestExit::PoweredOff),
        _ => Next::End(GuestExit::Crashed),
    }
}

impl Guest {
    /// Runs the guest until it is off, and calls `report` after each change. Dropping the future switches the guest off.
    pub(crate) async fn run(self, host: Arc<Host>, report: impl Fn(Hardware)) -> Result<(), BootError> {
        let mut hardware = Hardware {
            mac: self.card.mac.clone(),
            ..Hardware::default()
        };
        report(hardware.clone());
        let ended = self.live(&host, &mut hardware, &report).await;
        hardware.end = Some(*ended.as_ref().unwrap_or(&GuestExit::Crashed));
        report(hardware);
        ended.map(drop)
    }

    async fn live(
        &self,
        host: &Host,
        hardware: &mut Hardware,
        report: &impl Fn(Hardware),
    ) -> Result<GuestExit, BootError> {
        let machine = self.prepare(host).await?;
        plug_in(&self.card).await?;
        loop {
            let before = length(&machine.console).await;
            let line = host.image().power_on(&machine);
            let environment = [("QEMU_MODULE_DIR", host.image().modules())];
            let child = host::start(&line, &environment, Stdio::piped(), Stdio::piped())?;
            tracing::info!(vm = self.vm, pid = child.id(), "real guest switched on");
            let reason = self.attend(child, host, hardware, report).await?;
            let panicked = said(&machine.console, before, "Kernel panic").await;
            tracing::info!(vm = self.vm, reason, panicked, "real guest is off");
            match next(reason.as_deref(), panicked) {
                Next::Again => {}
                Next::End(end) => return Ok(end),
            }
        }
    }

    /// Disk, seed and console.
    async fn prepare(&self, host: &Host) -> Result<Machine, BootError> {
        tokio::fs::create_dir_all(&self.disks).await?;
        let machine = Machine {
            uuid: self.uuid.clone(),
            cpus: self.cpus,
            memory: self.memory,
            card: self.card.clone(),
            disk: self.disks.join("root.qcow2"),
            seed: self.disks.join("seed.iso"),
            console: host.console(&self.vm),
        };
        if !machine.disk.exists() {
            host::run(&host.image().overlay(&machine.disk)).await?;
        }
        let folder = self.disks.join("seed");
        seed::write(
            &folder,
            &self.user_data,
            &seed::meta_data(&self.hostname, &self.namespace),
        )?;
        host::run(&seed::pack(&folder, &machine.seed)).await?;
        Ok(machine)
    }

    /// Watches the guest's address and switches it off when that is asked for; QEMU's reason when it has ended.
    async fn attend(
        &self,
        mut child: Child,
        host: &Host,
        hardware: &mut Hardware,
        report: &impl Fn(Hardware),
    ) -> Result<Option<String>, BootError> {
        // Both were piped.
        let (Some(mut monitor), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Ok(None);
        };
        tell(&mut monitor, qmp::HELLO).await;
        let mut answers = BufReader::new(output).lines();
        let mut reason = None;
        let mut looks = interval(POLL_INTERVAL);
        let mut pressed: Option<(Instant, Instant)> = None;
        loop {
            // Without a press, the two last branches are off.
            let (again, plug) = pressed.unwrap_or((Instant::now(), Instant::now()));
            tokio::select! {
                line = answers.next_line() => match line? {
                    Some(line) => reason = qmp::shutdown(&line).or(reason),
                    None => break,
                },
                _ = looks.tick() => {
                    let address = host.address(&self.card).await;
                    if address.is_some() && address != hardware.address {
                        hardware.address = address;
                        report(hardware.clone());
                    }
                }
                () = self.power_off.cancelled(), if pressed.is_none() => {
                    let now = Instant::now();
                    tell(&mut monitor, qmp::POWER_BUTTON).await;
                    pressed = Some((now + PRESS_AGAIN, now + GRACE));
                }
                () = sleep_until(plug), if pressed.is_some() && plug <= again => {
                    tracing::warn!(vm = self.vm, "the guest does not switch itself off within {GRACE:?}");
                    tell(&mut monitor, qmp::QUIT).await;
                    // QEMU exits, and its output ends.
                    pressed = Some((plug + GRACE, plug + GRACE));
                }
                () = sleep_until(again), if pressed.is_some() && again < plug => {
                    tell(&mut monitor, qmp::POWER_BUTTON).await;
                    pressed = Some((again + PRESS_AGAIN, plug));
                }
            }
        }
        child.wait().await?;
        Ok(reason)
    }
}

/// Makes the host's end of a network card.
async fn plug_in(NetworkCard { tap, .. }: &NetworkCard) -> Result<(), ProgramError> {
    unplug(tap).await;
    host::ip(&format!("tuntap add dev {tap} mode tap")).await?;
    host::ip(&format!("link set {tap} master {BRIDGE} up")).await
}

/// Removes the host's end of a network card, if it is there.
pub(crate) async fn unplug(tap: &str) {
    if let Err(error) = host::ip(&format!("link delete {tap}")).await {
        tracing::debug!(tap, %error, "no such card");
    }
}

/// QEMU may have exited just now, which the end of its output shows.
async fn tell(monitor: &mut ChildStdin, command: &[u8]) {
    if let Err(error) = monitor.write_all(command).await {
        tracing::debug!(%error, "QEMU's monitor is closed");
    }
}

async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path)
        .await
        .map_or(0, |metadata| metadata.len())
}

/// Whether a console has shown these words since it was so long.
async fn said(console: &Path, from: u64, words: &str) -> bool {
    let read = async {
        let mut file = tokio::fs::File::open(console).await?;
        file.seek(std::io::SeekFrom::Start(from)).await?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = read.await.unwrap_or_default();
    text.windows(words.len()).any(|window| window == words.as_bytes())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::switched_itself_off(Some("guest-shutdown"), false, Next::End(GuestExit::PoweredOff))]
    #[case::plug_pulled(Some("host-qmp-quit"), false, Next::End(GuestExit::PoweredOff))]
    #[case::reboot(Some("guest-reset"), false, Next::Again)]
    #[case::panic_and_the_reset_that_follows(Some("guest-reset"), true, Next::End(GuestExit::Crashed))]
    #[case::killed(None, false, Next::End(GuestExit::Crashed))]
    #[case::unknown(Some("host-error"), false, Next::End(GuestExit::Crashed))]
    fn what_follows_the_end_of_qemu(
        #[case] reason: Option<&str>,
        #[case] panicked: bool,
        #[case] then: Next,
    ) {
        assert_eq!(next(reason, panicked), then);
    }

    #[tokio::test]
    async fn a_panic_of_an_earlier_boot_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("a.log");
        assert_eq!(length(&console).await, 0);
        std::fs::write(&console, "[ 1.0] Kernel panic - not syncing\n").unwrap();
        assert!(said(&console, 0, "Kernel panic").await);
        let before = length(&console).await;
        assert!(!said(&console, before, "Kernel panic").await);
    }
}
