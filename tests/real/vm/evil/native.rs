//! Programs in C, all of one source (`native.c`) that is compiled in the VM where they run.

use hearth_schemas::result::{Cause, Verdict};
use serde_json::json;

use super::{Evil, in_arena, unleash_after};

const SOURCE: &str = include_str!("native.c");
/// Where the compiled program is.
const BINARY: &str = "/work/bin/native";

fn native(name: &'static str) -> Evil {
    Evil::new(name, &[BINARY, name])
}

fn compile() -> Evil {
    let command = format!("mkdir -p bin small && gcc -O0 -w -pthread -x c -o {BINARY} -");
    Evil::shell("compile", &command).reads(SOURCE)
}

/// Makes room again in the working tree.
fn clear() -> Evil {
    // With more than what was used up: whoever is over the limit at first is so at once.
    Evil::shell("clear", "rm -rf small storm sparse && mkdir small && echo cleared")
        .within(json!({"files": 60_000, "disk_mib": 512}))
        .prints("cleared\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_runs_out_in_c() {
    let hog = |name| {
        native(name)
            .within(json!({"memory_mib": 32, "processes": 100}))
            .gets(Verdict::MemoryLimit, Cause::Oom)
    };
    let names = [
        "hog_malloc",
        "hog_mmap",
        "hog_populate",
        "hog_memfd",
        "hog_shm",
        "hog_children",
        "hog_pipes",
        "hog_locked",
    ];
    let mut programs: Vec<_> = names.map(hog).into();
    programs.extend(
        ["stack", "stack_thread"].map(|name| native(name).within(json!({"memory_mib": 64})).dies_of(11)),
    );
    programs.push(native("abort").dies_of(6));
    in_arena("gcc", async |arena| drop(unleash_after(arena, Some(&compile()), &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_multiply_and_will_not_end_in_c() {
    let bomb = |name| native(name).within(json!({"processes": 24})).gets(Verdict::ProcessLimit, Cause::Pids);
    let names = ["bomb", "bomb_setsid", "bomb_double", "bomb_vfork", "bomb_threads", "bomb_deaf"];
    let mut programs: Vec<_> = names.map(bomb).into();
    let spins = |name| native(name).within(json!({"cpu_ms": 700})).gets(Verdict::TimeLimit, Cause::Cpu);
    programs.extend(["spin", "spin_children"].map(spins));
    let waits = |name| native(name).within(json!({"wall_ms": 3000})).gets(Verdict::TimeLimit, Cause::Idle);
    programs.extend(["deaf", "stop_itself", "stop_family"].map(waits));
    programs.push(native("stop_parent").prints("kill EPERM\n".repeat(3)));
    programs.push(native("orphan").exits(3));
    in_arena("gcc", async |arena| drop(unleash_after(arena, Some(&compile()), &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_every_kind_in_c() {
    let flood =
        |name, cause| native(name).within(json!({"output_kib": 512})).gets(Verdict::OutputLimit, cause);
    let programs = [
        flood("flood_out", Cause::Stdout),
        flood("flood_err", Cause::Stderr),
        flood("flood_both", Cause::Stdout).of_any_cause(),
        native("flood_bytes").within(json!({"output_kib": 4})).gets(Verdict::OutputLimit, Cause::Stdout),
        native("slowly").prints("s".repeat(20)),
        native("all_bytes").prints((0..=255).collect::<Vec<u8>>()),
        native("nuls").prints(vec![0; 1000]),
        native("long_line").writes(1 << 20),
    ];
    in_arena("gcc", async |arena| drop(unleash_after(arena, Some(&compile()), &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_and_its_host_are_out_of_reach_in_c() {
    let machine = [
        "chroot EPERM",
        "mount EPERM",
        "umount EPERM",
        "ptrace_init EPERM",
        "ptrace_me EPERM",
        "reboot EPERM",
        "kexec EPERM",
        "swapon EPERM",
        "setuid EPERM",
        "nice EACCES",
        "realtime EPERM",
        "nofile EPERM",
        "clock EPERM",
        "hostname EPERM",
        "unshare EPERM",
        "kill_init EPERM",
        "kill_others ESRCH",
    ];
    let ip = "over tcp\nover udp\nraw EPERM\nraw6 EPERM\nping EPROTONOSUPPORT\npacket EAFNOSUPPORT\nnetlink EAFNOSUPPORT\n\
              vsock EAFNOSUPPORT\noutside ENETUNREACH\n";
    let programs = [
        native("sockets").prints("others 0\nunix worked\nvsock_pair EAFNOSUPPORT\n"),
        native("dial").prints("made 0 reached 0 dev 0\n"),
        native("dial").with_ip().prints("made 0 reached 0 dev 0\n"),
        native("loopback").with_ip().prints(ip),
        // What one command was given is not the next one's.
        native("sockets").prints("others 0\nunix worked\nvsock_pair EAFNOSUPPORT\n"),
        native("machine").prints(machine.join("\n") + "\n"),
        native("devices").prints("mknod EPERM\nmknod_mem EPERM\ndevices 0\n"),
    ];
    in_arena("gcc", async |arena| drop(unleash_after(arena, Some(&compile()), &programs).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_and_its_inodes_are_filled_in_c() {
    let programs = [
        native("sparse").prints("truncate worked\n"),
        native("sync_storm")
            .within(json!({"wall_ms": 3000}))
            .gets(Verdict::TimeLimit, Cause::Wall)
            .of_any_cause(),
        clear(),
        native("small_files").gets(Verdict::DiskLimit, Cause::Files),
        clear(),
        native("small_files")
            .within(json!({"files": 20_000, "disk_mib": 8}))
            .gets(Verdict::DiskLimit, Cause::Enospc),
        clear(),
        native("links").gets(Verdict::DiskLimit, Cause::Files),
        clear(),
    ];
    in_arena("gcc", async |arena| drop(unleash_after(arena, Some(&compile()), &programs).await)).await;
}
