//! The virtual machine: the command lines of QEMU.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The programs and files that `hack/guest-image.sh` built.
#[derive(Debug, Clone)]
pub struct Image(PathBuf);

/// A program with its arguments.
pub type CommandLine = Vec<OsString>;

/// Virtual hardware of one guest.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The firmware's UUID: the kubelet reports it as the Node's `systemUUID`.
    pub uuid: String,
    /// CPUs.
    pub cpus: u64,
    /// Memory in MiB.
    pub memory: u64,
    /// Its network card.
    pub card: NetworkCard,
    /// Its disk, an overlay of the image.
    pub disk: PathBuf,
    /// The disk with its user data.
    pub seed: PathBuf,
    /// Where its serial console goes.
    pub console: PathBuf,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCard {
    /// Hardware address.
    pub mac: String,
    /// The host's end.
    pub tap: String,
}

impl NetworkCard {
    /// The card of the VMI with this UID: KubeVirt gives each instance a new one.
    pub fn of(vmi_uid: &str) -> Self {
        let digest = Sha256::digest(vmi_uid);
        let bytes: Vec<String> = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        Self {
            // Locally administered.
            mac: format!("02:{}", bytes.join(":")),
            tap: format!("t{}", bytes.concat()),
        }
    }
}

impl Image {
    /// The image in this folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The first file that is missing.
    pub fn missing(&self) -> Option<PathBuf> {
        let programs = ["qemu-system-x86_64", "qemu-img"].map(|name| self.tree(&format!("usr/bin/{name}")));
        let files = ["vmlinuz", "initrd.img", "root.raw"].map(|name| self.file(name));
        programs.into_iter().chain(files).find(|path| !path.is_file())
    }

    fn tree(&self, path: &str) -> PathBuf {
        self.0.join("qemu").join(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("image").join(name)
    }

    /// A program of the private tree, with the libraries of that tree.
    fn program(&self, name: &str) -> CommandLine {
        let mut libraries = OsString::new();
        for (index, folder) in ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .iter()
            .enumerate()
        {
            if index > 0 {
                libraries.push(":");
            }
            libraries.push(self.tree(folder));
        }
        vec![
            self.tree("usr/lib64/ld-linux-x86-64.so.2").into(),
            "--library-path".into(),
            libraries,
            self.tree(&format!("usr/bin/{name}")).into(),
        ]
    }

    /// Where QEMU finds its modules (`QEMU_MODULE_DIR`).
    pub fn modules(&self) -> PathBuf {
        self.tree("usr/lib/x86_64-linux-gnu/qemu")
    }

    /// Makes an empty overlay of the image's disk.
    pub fn overlay(&self, disk: &Path) -> CommandLine {
        let mut line = self.program("qemu-img");
        line.extend(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(OsString::from));
        line.extend([self.file("root.raw").into(), disk.into()]);
        line
    }

    /// Switches the machine on. QMP is on standard input and output; a reset ends the process, as does a panic, which
    /// the kernel follows with a reset.
    pub fn power_on(&self, machine: &Machine) -> CommandLine {
        let mut line = self.program("qemu-system-x86_64");
        let NetworkCard { mac, tap } = &machine.card;
        // Never KVM: where it is offered at all, it hangs under other hypervisors.
        let fixed = "-machine q35 -accel tcg,thread=multi,tb-size=512 -cpu max -nodefaults -no-user-config -no-reboot \
                     -display none -qmp stdio -device virtio-rng-pci -device virtio-net-pci";
        line.extend(fixed.split_whitespace().map(OsString::from));
        // The last of them is still open.
        if let Some(device) = line.last_mut() {
            device.push(format!(",netdev=net0,mac={mac},romfile="));
        }
        let mut flag = |name: &str, value: OsString| line.extend([name.into(), value]);
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            flag("-L", self.tree(folder).into());
        }
        flag("-uuid", machine.uuid.clone().into());
        flag("-smp", machine.cpus.to_string().into());
        flag("-m", machine.memory.to_string().into());
        flag("-kernel", self.file("vmlinuz").into());
        flag("-initrd", self.file("initrd.img").into());
        let kernel = "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1 mitigations=off";
        flag("-append", kernel.into());
        flag(
            "-netdev",
            format!("tap,id=net0,ifname={tap},script=no,downscript=no").into(),
        );
        flag("-drive", drive(&machine.disk, "qcow2"));
        flag("-drive", drive(&machine.seed, "raw,readonly=on"));
        let mut console = OsString::from("file,id=console,append=on,path=");
        console.push(&machine.console);
        flag("-chardev", console);
        flag("-serial", "chardev:console".into());
        line
    }
}

/// A virtio disk. Its data need not survive a power failure of the host.
fn drive(path: &Path, format: &str) -> OsString {
    let mut drive = OsString::from(format!("if=virtio,cache=unsafe,format={format},file="));
    drive.push(path);
    drive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> String {
        let machine = Machine {
            uuid: "6c5b".into(),
            cpus: 2,
            memory: 1536,
            card: NetworkCard::of("a"),
            disk: "/d/root.qcow2".into(),
            seed: "/d/seed.iso".into(),
            console: "/c/a.log".into(),
        };
        let words = Image::in_folder(Path::new("/g")).power_on(&machine);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn the_machine_is_the_one_that_the_vmi_describes_and_never_asks_for_kvm() {
        let line = line();
        for part in [
            "-uuid 6c5b",
            "-smp 2 -m 1536",
            "-accel tcg,",
            "file=/d/root.qcow2",
            "readonly=on,file=/d/seed.iso",
            "path=/c/a.log",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(!line.contains("kvm"), "{line}");
    }

    #[test]
    fn each_instance_has_a_card_of_its_own_that_linux_takes() {
        let (one, other) = (NetworkCard::of("a"), NetworkCard::of("b"));
        assert_ne!(one, other);
        assert_eq!(one, NetworkCard::of("a"), "the VMI alone determines it");
        assert_eq!(one.mac.len(), 17);
        assert!(one.tap.len() < 16, "IFNAMSIZ: {}", one.tap);
    }
}
