//! The guest's scripts, run in a folder that stands for its root, with programs that only tell that they were called.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use rstest::rstest;

use super::INSTALL_SCRIPT;

const NODE_IP_SCRIPT: &str = include_str!("../../../../templates/node-ip.sh");

/// Folders of a guest that scripts name.
const FOLDERS: [&str; 6] = ["/etc/", "/opt/", "/proc/", "/run/", "/usr/", "/var/"];

/// Programs that every guest has, and that do here what they do there.
const TOOLS: [&str; 15] = [
    "awk",
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "grep",
    "install",
    "ln",
    "mkdir",
    "mv",
    "sed",
    "sha256sum",
    "uname",
    "xargs",
];

/// A guest's root; gone with the test.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("machinist-scripts-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("bin")).unwrap();
        Self(root)
    }

    /// A guest whose image has containerd and the kubelet.
    fn prepared(name: &str) -> Self {
        let root = Self::new(name);
        for name in [
            "modprobe",
            "sysctl",
            "swapoff",
            "systemctl",
            "containerd",
            "sleep",
        ] {
            root.program(name, "");
        }
        root.write("usr/bin/kubelet", "#!/bin/bash\necho Kubernetes v1.33.4\n");
        fs::create_dir_all(root.0.join("etc/kubernetes")).unwrap();
        root
    }

    /// Runs the installation; whether it succeeded.
    fn install(&self) -> bool {
        self.run(INSTALL_SCRIPT, &["1.33.4", &self.moved("/usr/bin/kubelet")])
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path.trim_start_matches('/')).exists()
    }

    /// The calls of programs, in order, of those whose name is among these.
    fn calls(&self, programs: &[&str]) -> Vec<String> {
        let calls = self.read("calls");
        let calls = calls
            .lines()
            .filter(|call| programs.contains(&call.split(' ').next().unwrap()));
        calls
            .map(|call| call.replace(&self.0.display().to_string(), ""))
            .collect()
    }

    /// The text with the guest's folders below the root.
    fn moved(&self, text: &str) -> String {
        FOLDERS.iter().fold(text.to_owned(), |text, folder| {
            text.replace(folder, &format!("{}{folder}", self.0.display()))
        })
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path.trim_start_matches('/'))).unwrap_or_default()
    }

    /// A program that tells that it was called, and then does this.
    fn program(&self, name: &str, body: &str) {
        let calls = self.0.join("calls");
        let body = self.moved(body);
        let script = format!("#!/bin/bash\necho \"{name} $*\" >>{}\n{body}\n", calls.display());
        self.write(&format!("bin/{name}"), &script);
    }

    /// Runs a script with no programs but the root's own and [`TOOLS`]; whether it succeeded.
    fn run(&self, script: &str, arguments: &[&str]) -> bool {
        self.write("script.sh", &self.moved(script));
        let folder = self.0.join("tools");
        fs::create_dir_all(&folder).unwrap();
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].map(|folder| PathBuf::from(folder).join(tool));
            let found = found.into_iter().find(|path| path.exists()).unwrap();
            let _ = symlink(found, folder.join(tool));
        }
        let path = format!("{}/bin:{}", self.0.display(), folder.display());
        let mut command = Command::new("bash");
        command
            .arg(self.0.join("script.sh"))
            .args(arguments)
            .env("PATH", path);
        command.output().unwrap().status.success()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_runs_is_not_started_again_because_a_command_of_a_person_failed() {
    let root = Root::prepared("install");
    root.write("opt/machinist/pre-install.sh", "true\n");
    let install = |post_install: &str| {
        root.write("opt/machinist/post-install.sh", post_install);
        let is_done = root.install();
        let restarts = root
            .read("calls")
            .matches("systemctl restart containerd.service kubelet.service")
            .count();
        (is_done, restarts)
    };
    assert_eq!(install("exit 1\n"), (false, 1));
    assert_eq!(install("exit 1\n"), (false, 1));
    assert!(!root.0.join("var/lib/machinist/installed").exists());
    // Whatever a boot may have changed is polled again.
    fs::remove_dir_all(root.0.join("run")).unwrap();
    assert_eq!(install("exit 1\n"), (false, 2));
    assert_eq!(install("true\n"), (true, 2));
    assert!(root.0.join("var/lib/machinist/installed").exists());
}

/// What `dnf` does where the repositories have the extra modules of these kernels, and `modprobe` where they bring what
/// was missing.
fn lacks_modules(root: &Root, kernels: &str) {
    fs::create_dir_all(root.0.join("var")).unwrap();
    root.program("uname", "echo 6.12.0-55.el10.x86_64");
    root.program("modprobe", "[ -e /var/modules ]");
    root.program(
        "dnf",
        &format!(
            "[ \"$1\" = install ] || exit 0\n[ \"$3\" = kernel-modules-extra ] && exit 0\n\
             case {kernels} in *\"$3\"*) echo >/var/modules ;; *) exit 1 ;; esac"
        ),
    );
}

#[test]
fn modules_that_the_kernel_has_need_no_package() {
    let root = Root::prepared("modules");
    root.program("dnf", "");
    assert!(root.install());
    assert_eq!(root.calls(&["dnf"]), Vec::<String>::new());
}

#[rstest]
#[case::both("nodev\toverlay\n", true)]
#[case::one_of_both("nodev\tsysfs\n", false)]
fn modules_that_are_built_in_unknown_to_modprobe_need_no_package(
    #[case] filesystems: &str,
    #[case] is_done: bool,
) {
    let root = Root::prepared(&format!("modules-built-in-{is_done}"));
    root.program("modprobe", "exit 1");
    fs::create_dir_all(root.0.join("proc/sys/net/bridge")).unwrap();
    root.write("proc/filesystems", filesystems);
    assert_eq!(root.install(), is_done);
}

#[test]
fn modules_of_a_package_of_their_own_are_installed_for_the_kernel_that_runs() {
    let root = Root::prepared("modules-extra");
    lacks_modules(&root, "kernel-modules-extra-6.12.0-55.el10.x86_64");
    assert!(root.install());
    assert_eq!(
        root.calls(&["dnf", "modprobe"]),
        [
            "modprobe --all overlay br_netfilter",
            "dnf makecache",
            "dnf install -y kernel-modules-extra-6.12.0-55.el10.x86_64",
            "modprobe --all overlay br_netfilter",
        ]
    );
}

#[test]
fn a_kernel_that_the_repositories_have_forgotten_is_replaced_once() {
    let root = Root::prepared("modules-forgotten");
    lacks_modules(&root, "none");
    let reboots = || {
        root.calls(&["systemctl"])
            .iter()
            .filter(|call| *call == "systemctl reboot")
            .count()
    };
    assert!(root.install());
    assert!(!root.has("var/lib/machinist/installed"));
    assert_eq!(
        root.calls(&["dnf"]).last().unwrap(),
        "dnf install -y kernel-modules-extra"
    );
    assert_eq!(reboots(), 1);
    // A kernel that lacks them still is no reason to reboot for ever.
    assert!(!root.install());
    assert_eq!(reboots(), 1);
    root.write("var/modules", "");
    assert!(root.install());
    assert!(root.has("var/lib/machinist/installed"));
}

#[test]
fn packages_are_upgraded_once_with_subscription_and_proxy() {
    let root = Root::prepared("upgrade-dnf");
    root.write("opt/machinist/upgrade", "");
    root.write("opt/machinist/subscribe.py", "");
    root.write("opt/machinist/pre-install.sh", "modprobe --of-a-person\n");
    root.program("python3", "");
    root.program(
        "dnf",
        "[ \"$1\" != needs-restarting ] || [ ! -e /run/new-kernel ]",
    );
    root.write("run/new-kernel", "");
    let programs = ["python3", "dnf", "modprobe"];
    let first = [
        "python3 /opt/machinist/subscribe.py",
        "modprobe --of-a-person",
        "dnf upgrade -y",
        "dnf install -y dnf-plugins-core",
        "dnf needs-restarting --reboothint",
    ];
    assert!(root.install());
    assert_eq!(root.calls(&programs), first);
    assert_eq!(root.calls(&["systemctl"]).last().unwrap(), "systemctl reboot");
    assert!(!root.has("var/lib/machinist/installed"));
    assert!(root.install());
    assert_eq!(
        root.calls(&programs)[first.len()..],
        [first[0], first[1], "modprobe --all overlay br_netfilter"]
    );
    assert!(root.has("var/lib/machinist/installed"));
}

#[rstest]
#[case::that_asks_for_a_reboot(true)]
#[case::that_asks_for_none(false)]
fn an_upgrade_of_ubuntu(#[case] reboots: bool) {
    let root = Root::prepared(&format!("upgrade-apt-{reboots}"));
    root.write("opt/machinist/upgrade", "");
    fs::create_dir_all(root.0.join("run")).unwrap();
    fs::create_dir_all(root.0.join("etc/needrestart/conf.d")).unwrap();
    root.program("apt-get", if reboots { "echo >/run/reboot-required" } else { "" });
    assert!(root.install());
    let calls = root.calls(&["apt-get"]);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(
        calls[0].ends_with(" update") && calls[1].ends_with(" dist-upgrade --yes"),
        "{calls:?}"
    );
    assert!(
        root.read("etc/needrestart/conf.d/machinist.conf")
            .starts_with("$nrconf{")
    );
    assert_eq!(root.has("var/lib/machinist/installed"), !reboots);
    // What the boot does.
    let _ = fs::remove_file(root.0.join("run/reboot-required"));
    assert!(root.install());
    assert_eq!(root.calls(&["apt-get"]).len(), 2);
    assert!(root.has("var/lib/machinist/installed"));
}

#[test]
fn an_upgrade_that_failed_is_tried_again_before_anything_is_installed() {
    let root = Root::prepared("upgrade-failed");
    root.write("opt/machinist/upgrade", "");
    root.program("apt-get", "exit 100");
    assert!(!root.install());
    assert_eq!(root.calls(&["modprobe"]), Vec::<String>::new());
    root.program("apt-get", "");
    assert!(root.install());
}

#[rstest]
#[case::the_systems_own(true, "platform-python /opt/machinist/subscribe.py")]
#[case::the_only_one(false, "python3 /opt/machinist/subscribe.py")]
fn the_guest_registers_by_the_python_that_it_has(#[case] has_platform: bool, #[case] call: &str) {
    let root = Root::prepared(&format!("subscribe-{has_platform}"));
    root.write("opt/machinist/subscribe.py", "");
    root.program("python3", "");
    if has_platform {
        root.program("platform-python", "");
        root.write("usr/libexec/platform-python", &root.read("bin/platform-python"));
    }
    assert!(root.install());
    assert_eq!(root.calls(&["python3", "platform-python"]), [call]);
}

#[rstest]
#[case::cannot_include("Port 22\nMatch User a\n", true)]
#[case::includes_others_only("#Include /etc/ssh/sshd_config.d/*.conf\nInclude /etc/ssh/a.conf\n", true)]
#[case::includes("Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n", false)]
#[case::includes_as_flatcar_writes_it("  include \"/etc/ssh/sshd_config.d/*.conf\"\n", false)]
fn sshd_is_reported_its_ca_where_it_reads_one_file_only(#[case] config: &str, #[case] is_reported: bool) {
    let root = Root::prepared(&format!("sshd-{}", config.len()));
    let line = "TrustedUserCAKeys /etc/ssh/trusted-user-ca-keys.pem\n";
    root.write("etc/ssh/sshd_config.d/40-machinist.conf", line);
    root.write("etc/ssh/sshd_config", config);
    for _ in 0..2 {
        assert!(root.install());
        let want = format!("{}{config}", if is_reported { line } else { "" });
        assert_eq!(root.read("etc/ssh/sshd_config"), want);
        fs::remove_dir_all(root.0.join("run")).unwrap();
    }
    let reload = "systemctl try-reload-or-restart sshd.service ssh.service".to_owned();
    assert!(root.calls(&["systemctl"]).contains(&reload));
}

#[rstest]
#[case::bare("%s", true)]
#[case::with_a_newline("%s\\n", true)]
#[case::with_the_name_of_the_file("%s  file\\n", true)]
#[case::of_something_else("0%s", false)]
fn a_file_is_taken_if_its_checksum_is_right(#[case] sum: &str, #[case] is_taken: bool) {
    let root = Root::new(&format!("fetch-{}-{is_taken}", sum.len()));
    root.write(
        "bin/curl",
        &format!(
            "#!/bin/bash\ncase \"$4\" in\n  *.sha256) printf '{sum}' \"$(printf kubelet | sha256sum | cut -d' ' -f1)\" ;;\n  \
             *) printf kubelet ;;\nesac >\"$3\"\n"
        ),
    );
    let (_, fetch) = INSTALL_SCRIPT.split_once("\nfetch() {").unwrap();
    let (fetch, _) = fetch.split_once("\n}\n").unwrap();
    let script = format!(
        "set -euo pipefail\nsay() {{ echo \"$@\"; }}\nretry() {{ \"$@\"; }}\nfetch() {{{fetch}\n}}\n\
         fetch https://example.com/kubelet https://example.com/kubelet.sha256 \"$1\"\n"
    );
    let file = root.0.join("kubelet");
    assert_eq!(root.run(&script, &[&file.display().to_string()]), is_taken);
    assert_eq!(root.read("kubelet") == "kubelet", is_taken);
}

#[rstest]
#[case("-4", "NODE_IP=10.0.0.5,fd00::5\n")]
#[case("-6", "NODE_IP=fd00::5,10.0.0.5\n")]
fn the_addresses_of_a_node_are_in_the_order_of_its_families(#[case] first: &str, #[case] addresses: &str) {
    let root = Root::new(&format!("node-ip{first}"));
    root.write(
        "bin/ip",
        "#!/bin/bash\ncase \"$*\" in\n  *route*) echo 'default via 10.0.0.1 dev eth0 proto dhcp' ;;\n  \
         *-4*) echo '2: eth0    inet 10.0.0.5/24 scope global eth0' ;;\n  \
         *) echo '2: eth0    inet6 fd00::5/64 scope global' ;;\nesac\n",
    );
    assert!(root.run(NODE_IP_SCRIPT, &[first]));
    assert_eq!(root.read("run/machinist/node-ip"), addresses);
}
