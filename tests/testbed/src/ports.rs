//! Free ports on loopback that no other testbed of this machine takes at the same time.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};

/// Below Linux' range for outgoing connections, which would otherwise take a port between choice and use.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port, reserved as long as this value or a clone of it lives.
#[derive(Debug, Clone)]
pub struct Port {
    number: u16,
    _reservation: Arc<File>,
}

impl Port {
    /// Reserves a free port. The lock on its file ends with this process at the latest.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // One per user, because users cannot write to each other's directories.
        let user = std::env::var("USER").unwrap_or_default();
        let dir = std::env::temp_dir().join(format!("machinist-testbed-ports-{user}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        // Spread the processes over the range, so that they seldom try each other's ports.
        let width = RANGE.end - RANGE.start;
        let first = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(width)).unwrap_or(0);
        for _ in 0..width {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed);
            let number =
                RANGE.start + u16::try_from((u32::from(first) + u32::from(offset)) % u32::from(width))?;
            let file = File::create(dir.join(number.to_string()))?;
            if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self {
                    number,
                    _reservation: Arc::new(file),
                });
            }
        }
        bail!("no free port in {RANGE:?}")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
