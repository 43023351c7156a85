//! Programs built from a Go module, once, and again when the module changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// What is built.
#[derive(Debug, Clone)]
pub(crate) struct GoBuild {
    /// Folder of the module, with its `go.mod`.
    pub(crate) module: PathBuf,
    /// Name of the folder of programs below [`paths::tools_cache`], and of what belongs to it.
    pub(crate) name: &'static str,
    /// Packages, and the names that Go gives to their programs.
    pub(crate) packages: &'static [(&'static str, &'static str)],
    /// Variables that the linker sets.
    pub(crate) linked: &'static [(&'static str, &'static str)],
    /// What a person reads who waits for it.
    pub(crate) takes: &'static str,
}

impl GoBuild {
    /// Folder of the programs.
    pub(crate) fn folder(&self) -> PathBuf {
        paths::tools_cache().join(self.name)
    }

    /// Builds all programs unless they are there and module and linker flags are those they were built with; the folder
    /// they are in.
    pub(crate) fn make(&self) -> Result<PathBuf> {
        let (cache, bin) = (paths::tools_cache(), self.folder());
        fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
        // Tests run side by side: one builds, the others wait for it. One lock for all modules: Go uses every core.
        let lock = fs::File::create(cache.join("build.lock"))?;
        lock.lock()?;
        let stamp = self.stamp()?;
        let stamp_file = cache.join(format!("{}.stamp", self.name));
        let current = fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
        if current && self.packages.iter().all(|(_, name)| bin.join(name).is_file()) {
            return Ok(bin);
        }
        eprintln!("{}", self.takes);
        let partial = cache.join(format!("{}.partial", self.name));
        // Without the folder, Go would take the name for that of a program.
        fs::create_dir_all(&partial)?;
        self.go_build(&partial)?;
        fs::create_dir_all(&bin)?;
        for (_, name) in self.packages {
            // Renaming leaves programs that run now what they are.
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
        let status = Command::new("go")
            .current_dir(&self.module)
            .env("CGO_ENABLED", "0")
            .args(["build", &format!("-ldflags=-s -w {}", set.join(" ")), "-o"])
            .arg(into)
            .args(self.packages.iter().map(|(package, _)| package))
            .stdin(Stdio::null())
            .status()
            .context("starting go (Go 1.26 or later is needed for the testbed's programs)")?;
        if !status.success() {
            bail!("go build in {} ended with {status}", self.module.display());
        }
        Ok(())
    }

    /// Of what the programs are made.
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
