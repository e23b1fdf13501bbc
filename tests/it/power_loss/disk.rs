//! A disk of the gateway's own that can lose its power, and the boot ID of the machine around it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::programs::{is_root, program, tool};
use crate::harness::{Gateway, Launcher};

/// The size of the disk, in bytes: the shares of three routes must never be full. The file has
/// holes, and takes what is written.
const BYTES: u64 = 1 << 30;

/// Mounts the image `$1` at `$2`, once no other process has it. The kernel removes the loop device
/// with the mount, and both with the namespace. The options are those that flush least: a file's
/// new size and name may be on the disk without its data.
const MOUNT: &str = r#"
    while [ -n "$(losetup --associated "$1")" ]; do sleep 0.01; done
    mkdir -p "$2" && mount -o loop,data=writeback,noauto_da_alloc "$1" "$2" || exit 1
"#;

/// Starts the gateway on the image `$1`, mounted at `$2`, with the boot ID of the file `$3`.
const LAUNCH: &str = r#"
    mount --bind "$3" /proc/sys/kernel/random/boot_id || exit 1
    shift 3
    exec "$@"
"#;

/// A file with an ext4 file system. Only the gateway's mount namespace has it mounted, so nothing
/// of it outlives the gateway.
pub struct Disk {
    unshare: PathBuf,
    python: PathBuf,
    folder: TempDir,
    boots: usize,
}

impl Disk {
    /// Formats a disk; returns `None` if the machine does not let the test mount one.
    pub fn new() -> Option<Self> {
        let purpose = "losses of power";
        let unshare = program("HOOKSTILE_UNSHARE", "unshare").filter(|_| is_root());
        let unshare = tool("root, with unshare,", unshare, purpose)?;
        let python = tool("python3", program("HOOKSTILE_PYTHON", "python3"), purpose)?;
        let mkfs = program("HOOKSTILE_MKFS_EXT4", "mkfs.ext4");
        let mkfs = tool("mkfs.ext4", mkfs, purpose)?;
        let folder = tempfile::tempdir().expect("a folder");
        let mut disk = Self {
            unshare,
            python,
            folder,
            boots: 0,
        };
        let image = File::create(disk.image()).expect("a writable folder");
        image.set_len(BYTES).expect("room for a sparse file");
        let format = Command::new(mkfs).arg("-q").arg(disk.image()).output();
        assert_success("mkfs.ext4", &format.expect("mkfs.ext4 runs"));
        disk.restart_machine();
        let mounted = disk.run("umount \"$2\"", &disk.folder.path().join("probe"), &[]);
        if mounted.status.success() {
            return Some(disk);
        }
        // No package provides loop devices, so the test is skipped. If rounds were requested, it fails,
        // because none ran.
        let asked = std::env::var_os("HOOKSTILE_POWER_LOSS_ROUNDS").is_some();
        assert!(!asked, "no loop device can be mounted here: {mounted:?}");
        let _ = writeln!(std::io::stderr(), "SKIPPED, no loop device here: {purpose}");
        None
    }

    /// Returns the launcher of a gateway whose folder `hookstile-data` is the disk.
    pub fn launcher(&self) -> Launcher {
        let mut command = vec![self.unshare.clone().into_os_string()];
        command.extend(["--mount", "sh", "-c"].map(Into::into));
        command.push(format!("{MOUNT}{LAUNCH}").into());
        command.push("sh".into());
        command.extend([
            self.image().into(),
            "hookstile-data".into(),
            self.boot_id().into(),
        ]);
        Launcher::command(command)
    }

    /// Takes the power from the disk and the gateway, this many milliseconds after the disk was
    /// mounted or after now. The seed decides how much the system had written back of its own
    /// accord.
    pub fn lose_power(&self, gateway: &Gateway, delay_ms: usize, seed: usize) {
        let process = gateway.pid().to_string();
        let mount = format!("/proc/{process}/root{}", gateway.store().display());
        let output = Command::new(&self.python)
            .args(["-I", "-S", "-c", include_str!("lose_power.py")])
            .args([mount, process, delay_ms.to_string(), seed.to_string()])
            .output()
            .expect("python runs");
        assert_success("lose_power.py", &output);
    }

    /// Gives the machine another boot ID.
    pub fn restart_machine(&mut self) {
        self.boots += 1;
        write_boot_id(&self.boot_id(), self.boots);
    }

    /// Copies a folder of the disk, which no gateway uses any more.
    pub fn copy(&self, from: &str, to: &Path) {
        let mount = self.folder.path().join("disk");
        let copy = self.run("cp -a \"$2/$3/.\" \"$4\"", &mount, &[Path::new(from), to]);
        assert_success("cp", &copy);
    }

    /// Runs a line of a shell with the disk mounted.
    fn run(&self, line: &str, mount: &Path, arguments: &[&Path]) -> Output {
        Command::new(&self.unshare)
            .args(["--mount", "sh", "-c", &format!("{MOUNT}{line}"), "sh"])
            .args([&self.image(), mount])
            .args(arguments)
            .output()
            .expect("unshare runs")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn boot_id(&self) -> PathBuf {
        self.folder.path().join("boot_id")
    }
}

/// Writes the boot ID that a machine has after this many starts.
pub fn write_boot_id(file: &Path, starts: usize) {
    let id = format!("00000000-0000-4000-8000-{starts:012x}\n");
    std::fs::write(file, id).expect("a writable folder");
}

#[track_caller]
fn assert_success(what: &str, output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
}
