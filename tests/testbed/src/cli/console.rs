//! The progress of a real guest: the lines of its console that show it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Texts of the lines that are shown.
const SHOWN_LINES: [&str; 9] = [
    "Linux version",
    "Welcome to",
    "Cloud-init v.",
    "Reached target network-online.target",
    "Started machinist-install.service",
    "machinist:",
    "Reached target cloud-init.target",
    "Kernel panic",
    "reboot:",
];

/// Prints a console's progress until it is dropped.
pub(crate) struct Console {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Console {
    /// Starts with the console's file, which may not exist yet.
    pub(crate) fn follow(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let thread = std::thread::spawn(move || follow(&path, &end));
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(path: &PathBuf, end: &AtomicBool) {
    let start = Instant::now();
    let mut console: Option<BufReader<File>> = None;
    let mut line = Vec::new();
    while !end.load(Ordering::Relaxed) {
        if console.is_none() {
            console = File::open(path).ok().map(BufReader::new);
        }
        let read = console
            .as_mut()
            .map(|console| console.read_until(b'\n', &mut line));
        // The last line of the file may be incomplete.
        if !matches!(read, Some(Ok(1..))) || line.last() != Some(&b'\n') {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        }
        if let Some(text) = shown_line(&String::from_utf8_lossy(&line)) {
            println!("{:>5.0} s  {text}", start.elapsed().as_secs_f64());
        }
        line.clear();
    }
}

/// The line in the form in which it is shown, if it is.
fn shown_line(line: &str) -> Option<String> {
    let line = plain(line);
    let line = line.trim();
    SHOWN_LINES.iter().any(|part| line.contains(part)).then(|| {
        // The kernel's command line and compiler are noise.
        let end = line
            .char_indices()
            .nth(110)
            .map_or(line.len(), |(index, _)| index);
        line[..end].to_owned()
    })
}

/// Without escape sequences for the cursor and colors.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // ESC, a bracket, parameters, and a letter.
                let _ = characters.find(char::is_ascii_alphabetic);
            }
            character if character.is_control() => {}
            character => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::progress(
        "[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mmachinist-install.service\u{1b}[0m - Find\r\n",
        Some("[  OK  ] Started machinist-install.service - Find")
    )]
    #[case::noise("[    1.0] usb 1-1: new device\r\n", None)]
    fn the_console_is_shown_without_noise(#[case] line: &str, #[case] expected: Option<&str>) {
        assert_eq!(shown_line(line).as_deref(), expected);
    }
}
