//! QEMU's command line. Pure: what a machine is made of is decided here and nowhere else.

use std::path::Path;

use hearth_schemas::manifest::Accelerator;

use crate::{
    net::{CARD, CARD_MAC},
    rates::Rates,
};

/// Where a plugged vsock goes on the PCI bus. Fixed, so that a guest sees the same machine every time.
pub const VSOCK_ADDR: &str = "0x6";

/// The machine of a runtime: the same for bake and restore, since the state belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct MachineSpec<'a> {
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// File that is the memory.
    pub memory: &'a Path,
    /// Whether writes to memory go to that file. Without it the file is a template that clones share.
    pub memory_shared: bool,
    /// Image of the root disk, never written.
    pub root: &'a Path,
    /// Image of the scratch disk.
    pub scratch: &'a Path,
    /// Socket on which somebody waits for QEMU's machine protocol.
    pub qmp: &'a Path,
    /// Limits of its disks.
    pub rates: Rates,
    /// The TAP of its network card, in the namespace that QEMU is started in.
    pub tap: Option<&'a str>,
}

/// What a start is for.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Boot a kernel.
    Boot {
        /// The kernel's image.
        kernel: &'a Path,
        /// The initial file system.
        initramfs: &'a Path,
        /// The kernel's command line.
        command_line: &'a str,
        /// File that takes the guest's console.
        console: &'a Path,
        /// Socket on which somebody waits for the guest's second serial port.
        channel: &'a Path,
    },
    /// Wait for a saved state. Needs no kernel: it is in the memory. Nothing of the guest's console is kept.
    Incoming {
        /// Socket on which QEMU listens for whoever wants the guest's second serial port, if anybody may.
        channel: Option<&'a Path>,
    },
}

/// The arguments, without the program.
pub fn arguments(machine: &MachineSpec<'_>, start: &Start<'_>) -> Vec<String> {
    let mut arguments = machine_arguments(machine);
    arguments.extend(disk_arguments(machine));
    arguments.extend(machine.tap.map(card_arguments).into_iter().flatten());
    match start {
        Start::Boot { kernel, initramfs, command_line, console, channel } => arguments.extend([
            "-kernel".to_owned(),
            kernel.display().to_string(),
            "-initrd".to_owned(),
            initramfs.display().to_string(),
            "-append".to_owned(),
            (*command_line).to_owned(),
            "-chardev".to_owned(),
            format!("file,id=console,path={}", value(console)),
            "-chardev".to_owned(),
            format!("socket,id=channel,path={}", value(channel)),
        ]),
        Start::Incoming { channel } => {
            let channel = channel.map_or_else(
                || "null,id=channel".to_owned(),
                |path| format!("socket,id=channel,path={},server=on,wait=off", value(path)),
            );
            arguments
                .extend(["-incoming", "defer", "-chardev", "null,id=console", "-chardev"].map(str::to_owned));
            arguments.push(channel);
        }
    }
    arguments.extend(["-serial", "chardev:console", "-serial", "chardev:channel"].map(str::to_owned));
    arguments
}

fn machine_arguments(machine: &MachineSpec<'_>) -> Vec<String> {
    let (accelerator, cpu) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // The model `max` of TCG depends on QEMU's version alone, not on the host's processor.
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    // A template that clones share is opened read only, and its mapping is copy on write (docs/system/
    // vm-templating.rst of QEMU).
    let sharing = if machine.memory_shared { "share=on" } else { "share=off,readonly=on,rom=off" };
    let memory = format!(
        "memory-backend-file,id=memory,size={}M,mem-path={},{sharing}",
        machine.memory_mib,
        value(machine.memory)
    );
    let qmp = format!("socket,id=qmp,path={}", value(machine.qmp));
    let [vcpus, memory_mib] = [machine.vcpus.to_string(), machine.memory_mib.to_string()];
    let pairs: [(&str, &str); 10] = [
        ("-display", "none"),
        ("-M", "pc,memory-backend=memory,usb=off,vmport=off"),
        ("-accel", accelerator),
        ("-cpu", cpu),
        ("-smp", &vcpus),
        ("-m", &memory_mib),
        ("-object", &memory),
        ("-chardev", &qmp),
        ("-mon", "chardev=qmp,mode=control"),
        ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ];
    let mut arguments = ["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned).to_vec();
    arguments.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]));
    arguments
}

fn disk_arguments(machine: &MachineSpec<'_>) -> [String; 8] {
    let rates = throttling(&machine.rates);
    [
        "-drive".to_owned(),
        format!("if=none,id=root,format=raw,readonly=on{rates},file={}", value(machine.root)),
        "-device".to_owned(),
        "virtio-blk-pci,drive=root,id=root-disk,addr=0x4".to_owned(),
        "-drive".to_owned(),
        // The disk dies with its VM: nobody waits for it to be durable.
        format!("if=none,id=scratch,format=raw,cache=unsafe{rates},file={}", value(machine.scratch)),
        "-device".to_owned(),
        "virtio-blk-pci,drive=scratch,id=scratch-disk,addr=0x5".to_owned(),
    ]
}

fn throttling(rates: &Rates) -> String {
    let limit = |what: &str, limit: Option<u64>| {
        limit.map(|limit| format!(",throttling.{what}-total={limit}")).unwrap_or_default()
    };
    limit("bps", rates.disk_bytes) + &limit("iops", rates.disk_operations)
}

/// A card without a ROM to boot from, which is no part of every package of QEMU.
fn card_arguments(tap: &str) -> [String; 4] {
    [
        "-netdev".to_owned(),
        format!("tap,id=tap,ifname={tap},script=no,downscript=no"),
        "-device".to_owned(),
        format!("virtio-net-pci,netdev=tap,id={CARD},mac={CARD_MAC},addr=0x7,romfile="),
    ]
}

/// A path inside an option: QEMU takes a comma for the end unless it is doubled (qemu(1), option syntax).
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(shared: bool) -> MachineSpec<'static> {
        MachineSpec {
            accelerator: Accelerator::Tcg,
            vcpus: 2,
            memory_mib: 384,
            memory: Path::new("/m,1"),
            memory_shared: shared,
            root: Path::new("/root.img"),
            scratch: Path::new("scratch"),
            qmp: Path::new("qmp"),
            rates: Rates::default(),
            tap: None,
        }
    }

    #[test]
    fn a_path_cannot_add_options() {
        let line = arguments(&machine(true), &Start::Incoming { channel: None }).join(" ");
        assert!(line.contains("mem-path=/m,,1,share=on"), "{line}");
    }

    #[test]
    fn each_disk_has_its_limits() {
        let rates = Rates { disk_bytes: Some(1000), disk_operations: Some(10), network_bytes: None };
        let line = arguments(&MachineSpec { rates, ..machine(true) }, &Start::Incoming { channel: None });
        let limited = |word: &&String| word.contains(",throttling.bps-total=1000,throttling.iops-total=10,");
        assert_eq!(line.iter().filter(limited).count(), 2, "{line:?}");
    }

    #[test]
    fn a_shared_template_is_never_written_and_a_restore_has_no_kernel_no_network_no_log() {
        let line = arguments(&machine(false), &Start::Incoming { channel: None }).join(" ");
        assert!(line.contains("share=off,readonly=on"), "{line}");
        assert!(line.contains("id=root,format=raw,readonly=on"));
        assert!(line.contains("-nodefaults") && !line.contains("net") && !line.contains("-kernel"));
        assert!(line.contains("-incoming defer") && !line.contains("file,id=console"));
        assert!(line.contains("null,id=channel"), "the serial port is nobody's unless the manifest says so");
        let channel = Some(Path::new("channel"));
        let line = arguments(&machine(false), &Start::Incoming { channel }).join(" ");
        assert!(line.contains("socket,id=channel,path=channel,server=on,wait=off"), "{line}");
    }

    #[test]
    fn a_card_is_the_same_for_bake_and_restore_but_for_its_tap() {
        let line = |tap| {
            arguments(&MachineSpec { tap: Some(tap), ..machine(false) }, &Start::Incoming { channel: None })
                .join(" ")
        };
        assert_eq!(line("hth1").replace("hth1", "hth2"), line("hth2"));
        assert!(line("hth1").contains("tap,id=tap,ifname=hth1,script=no,downscript=no"));
    }
}
