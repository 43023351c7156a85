//! Programs built from a Go module, once, and again when the module changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{BufRead as _, BufReader, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

const NEEDS_GO: &str = "starting go (Go 1.26 or later is needed for the testbed's programs)";

/// Go collects garbage for a quarter of a compilation by default. The limit is for the linker of kube-apiserver, which takes
/// 1.4 GB like this, half of it mapped files.
const CHEAPER: &[(&str, &str)] = &[("GOGC", "400"), ("GOMEMLIMIT", "320MiB")];

/// These programs need no debug information. All builds of the same packages use the same flags; otherwise they would be
/// compiled again.
const COMPILER: &str = "-gcflags=all=-dwarf=false";

/// A build.
#[derive(Debug, Clone)]
pub(crate) struct GoBuild {
    /// Folder of the module, with its `go.mod`.
    pub(crate) module: PathBuf,
    /// Name of the folder of programs below [`paths::tools_cache`], and prefix of related files.
    pub(crate) name: &'static str,
    /// Packages, and the names that Go gives to their programs.
    pub(crate) packages: Vec<(&'static str, &'static str)>,
    /// Variables that the linker sets.
    pub(crate) linked: &'static [(&'static str, &'static str)],
    /// How long it takes, for the message to the user.
    pub(crate) takes: &'static str,
}

impl GoBuild {
    /// Folder of the programs.
    pub(crate) fn folder(&self) -> PathBuf {
        paths::tools_cache().join(self.name)
    }

    /// Builds all programs, unless they exist and were built with the same module and linker flags. Returns their folder.
    pub(crate) fn make(&self) -> Result<PathBuf> {
        let (cache, bin) = (paths::tools_cache(), self.folder());
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        // Tests run in parallel: one builds, the others wait for it. One lock for all modules, because Go uses every core.
        let lock = fs::File::create(cache.join("build.lock"))?;
        lock.lock()?;
        let stamp = self.stamp()?;
        let stamp_file = cache.join(format!("{}.stamp", self.name));
        let current = fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
        if current && self.packages.iter().all(|(_, name)| bin.join(name).is_file()) {
            return Ok(bin);
        }
        let programs: Vec<_> = self.packages.iter().map(|(_, program)| *program).collect();
        eprintln!("Building {} with Go ({}) ...", programs.join(", "), self.takes);
        let partial = cache.join(format!("{}.partial", self.name));
        // Without the folder, Go would take the name for that of a program.
        fs::create_dir_all(&partial)?;
        self.go_build(&partial)?;
        fs::create_dir_all(&bin)?;
        for (_, name) in &self.packages {
            // Renaming does not affect running programs.
            fs::rename(partial.join(name), bin.join(name)).with_context(|| format!("no {name} was built"))?;
        }
        let _ = fs::remove_dir(&partial);
        fs::write(stamp_file, stamp)?;
        Ok(bin)
    }

    fn go_build(&self, into: &Path) -> Result<()> {
        let set: Vec<_> = self
            .linked
            .iter()
            .map(|(name, value)| format!("-X {name}={value}"))
            .collect();
        let total = self.count_packages()?;
        let mut build = self
            .go()
            // Names each package as it is compiled.
            .args([
                "build",
                "-v",
                COMPILER,
                &format!("-ldflags=-s -w {}", set.join(" ")),
                "-o",
            ])
            .arg(into)
            .args(self.packages.iter().map(|(package, _)| package))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(NEEDS_GO)?;
        let said = build.stderr.take().map(|stderr| show_progress(stderr, total));
        let status = build.wait()?;
        if !status.success() {
            let said = said.unwrap_or_default();
            bail!(
                "go build in {} ended with {status}:\n{said}",
                self.module.display()
            );
        }
        Ok(())
    }

    /// `go` in the folder of the module.
    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.current_dir(&self.module).env("CGO_ENABLED", "0");
        for (name, value) in CHEAPER {
            if std::env::var_os(name).is_none() {
                go.env(name, value);
            }
        }
        go
    }

    /// How many packages the programs are made of.
    fn count_packages(&self) -> Result<usize> {
        let listed = self
            .go()
            .args(["list", "-deps"])
            .args(self.packages.iter().map(|(package, _)| package))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context(NEEDS_GO)?;
        if !listed.status.success() {
            bail!(
                "go list in {} ended with {}",
                self.module.display(),
                listed.status
            );
        }
        Ok(String::from_utf8_lossy(&listed.stdout).lines().count())
    }

    /// The digest of the programs' sources.
    fn stamp(&self) -> Result<String> {
        let mut sources = Vec::new();
        for entry in fs::read_dir(&self.module)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "go") {
                sources.push(path);
            }
        }
        sources.sort();
        let modules = ["go.mod", "go.sum"].map(|name| self.module.join(name));
        let mut hasher = DefaultHasher::new();
        for file in modules.iter().chain(&sources) {
            fs::read(file)?.hash(&mut hasher);
        }
        self.linked.hash(&mut hasher);
        Ok(format!("{:016x}\n", hasher.finish()))
    }
}

/// Shows how many of the packages are compiled: one line that changes on a terminal, a line for each tenth elsewhere.
/// Returns everything that is not the name of a package.
fn show_progress(stderr: ChildStderr, total: usize) -> String {
    let (mut compiled, mut shown, mut said) = (0, 0, String::new());
    let mut terminal = std::io::stderr();
    let is_terminal = terminal.is_terminal();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains(' ') || line.starts_with('#') {
            said.push_str(&line);
            said.push('\n');
            continue;
        }
        compiled += 1;
        let tenth = compiled * 10 / total.max(1);
        // A failure to show progress is ignored.
        if is_terminal {
            let _ = write!(
                terminal,
                "\r\x1b[K  {compiled} of at most {total} packages: {line}"
            );
        } else if tenth > shown {
            shown = tenth;
            let _ = writeln!(terminal, "  {compiled} of at most {total} packages");
        }
    }
    if is_terminal {
        let _ = write!(terminal, "\r\x1b[K");
    }
    said
}
