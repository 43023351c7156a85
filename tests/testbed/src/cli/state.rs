//! The files of `up` in its folder, for `down`, `status` and users.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use testbed::process::is_running;

/// The folder, `.testbed` by default.
#[derive(Clone)]
pub(crate) struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Creates the folder if it is missing.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self {
            dir: dir.canonicalize()?,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Logs and keys of the run.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(crate) fn infra_kubeconfig(&self) -> PathBuf {
        self.dir.join("infra.kubeconfig")
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Removes the files of an earlier run, so that they are not mistaken for the next one's.
    pub(crate) fn clear(&self) -> Result<()> {
        for file in [self.ready(), self.kubeconfig(), self.infra_kubeconfig()] {
            let _ = fs::remove_file(file);
        }
        match fs::remove_dir_all(self.run_dir()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("clearing {}", self.run_dir().display()))
            }
            _ => Ok(()),
        }
    }

    /// The log of the supervisor, truncated.
    pub(crate) fn supervisor_log(&self) -> Result<fs::File> {
        Ok(fs::File::create(self.log())?)
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Stores the supervisor's pid and its arguments.
    pub(crate) fn write_supervisor(&self, pid: u32, shape: &[String]) -> Result<()> {
        fs::write(self.shape_file(), shape.join(" "))?;
        Ok(fs::write(self.pid_file(), format!("{pid}\n"))?)
    }

    /// The arguments of the running testbed.
    pub(crate) fn shape(&self) -> Result<String> {
        let file = self.shape_file();
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    pub(crate) fn forget_supervisor(&self) -> Result<()> {
        let _ = fs::remove_file(self.ready());
        Ok(fs::remove_file(self.pid_file())?)
    }

    /// The pid of the running supervisor.
    pub(crate) fn supervisor(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // After a reboot, another process may have the pid.
        let ours = fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|argument| argument == b"serve"));
        (ours && is_running(pid)).then_some(pid)
    }

    pub(crate) fn mark_ready(&self) -> Result<()> {
        Ok(fs::write(self.ready(), "")?)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready().is_file()
    }

    /// Name, pid and whether it runs, of every process that a pid file of the run names.
    pub(crate) fn processes(&self) -> Result<Vec<(String, u32, bool)>> {
        let mut found = Vec::new();
        let mut folders = vec![self.run_dir()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() && !path.ends_with("data") {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "pid")
                    && let Ok(pid) = fs::read_to_string(&path).unwrap_or_default().trim().parse()
                {
                    let name = path
                        .strip_prefix(self.run_dir())?
                        .with_extension("")
                        .display()
                        .to_string();
                    found.push((name, pid, is_running(pid)));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// The next commands for the user.
    pub(crate) fn hints(&self) -> String {
        let shown = |path: PathBuf| {
            let here = std::env::current_dir().unwrap_or_default();
            path.strip_prefix(here)
                .map_or(path.clone(), Path::to_path_buf)
                .display()
                .to_string()
        };
        format!(
            "\n  export KUBECONFIG={}         # the user cluster: Machines and Nodes\n  \
             {} get machines,nodes\n  \
             {} --kubeconfig {} get vm,vmi,dv --all-namespaces\n  \
             make down                                    # ends everything\n",
            shown(self.kubeconfig()),
            shown(self.bin().join("kubectl")),
            shown(self.bin().join("kubectl")),
            shown(self.infra_kubeconfig()),
        )
    }

    fn ready(&self) -> PathBuf {
        self.dir.join("ready")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("testbed.pid")
    }

    fn shape_file(&self) -> PathBuf {
        self.dir.join("shape")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("testbed.log")
    }
}
