//! Programs in JavaScript, and in the shell with what a real one can do.

use hearth_schemas::result::{Cause, Verdict};
use serde_json::json;

use super::{Evil, in_arena, unleash};

fn node(name: &'static str, code: &str) -> Evil {
    Evil::new(name, &["node", "-e", code])
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_is_held_like_any_program() {
    let spins =
        |name, code| node(name, code).within(json!({"cpu_ms": 6000})).gets(Verdict::TimeLimit, Cause::Cpu);
    let hog = |name, code| {
        node(name, code).within(json!({"memory_mib": 128})).gets(Verdict::MemoryLimit, Cause::Oom)
    };
    let refused = "const fs = require('fs'), cp = require('child_process'); const tell = f => { try { f(); console.log('worked') } catch (e) { console.log(e.code) } }; \
        tell(() => process.kill(1, 'SIGKILL')); tell(() => process.kill(process.ppid, 'SIGSTOP')); tell(() => process.setuid(0)); \
        tell(() => fs.writeFileSync('/etc/passwd', 'x')); tell(() => fs.readFileSync('/etc/shadow')); tell(() => fs.readdirSync('/scratch/work')); \
        tell(() => fs.openSync('/dev/vda')); tell(() => fs.symlinkSync('/etc', '/usr/evil')); tell(() => os.setPriority(1, -20));";
    let programs = [
        spins("spin", "for (;;);"),
        spins("regex", "/^(a+)+$/.test('a'.repeat(60) + 'b')"),
        node("waits", "setInterval(() => {}, 1000); for (const s of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(s, () => {})")
            .within(json!({"wall_ms": 12_000}))
            .gets(Verdict::TimeLimit, Cause::Idle)
            .of_any_cause(),
        hog("heap", "const a = []; for (;;) a.push(new Array(1000).fill(Math.random()))"),
        hog("buffers", "const a = []; for (;;) a.push(Buffer.alloc(1 << 22, 1))"),
        node("recursion", "(function f() { f() })()").exits(1),
        node("throws", "throw new Error('no')").exits(1),
        node("rejects", "Promise.reject(new Error('no'))").exits(1),
        node("code", "process.exit(213)").exits(213),
        node("aborts", "process.abort()").dies_of(6),
        node("kills-itself", "process.kill(process.pid, 'SIGKILL'); for (;;);").dies_of(9),
        node("flood", "const fs = require('fs'), b = Buffer.alloc(65536, 120); for (;;) fs.writeSync(1, b)").gets(Verdict::OutputLimit, Cause::Stdout),
        node("children", "const {spawn} = require('child_process'); setInterval(() => spawn('sleep', ['1000'], {detached: true}).on('error', () => {}), 1)")
            .within(json!({"processes": 40}))
            .gets(Verdict::ProcessLimit, Cause::Pids),
        node("files", "const fs = require('fs'); for (let n = 0; ; n++) try { fs.writeFileSync('/tmp/f' + n, 'x') } catch { Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0) }")
            .within(json!({"files": 100}))
            .gets(Verdict::DiskLimit, Cause::Files),
        Evil::shell("clear", "rm -f /tmp/f* && echo cleared").prints("cleared\n"),
        node("sockets", "const net = require('net'); net.connect(1000, '127.0.0.1').on('error', e => console.log(e.code)); \
            require('dgram').createSocket('udp4').on('error', e => console.log(e.code)).bind(0)")
            .prints("EAFNOSUPPORT\nEAFNOSUPPORT\n"),
        node("refused", &refused.replace("os.setPriority(1, -20)", "require('os').setPriority(1, -20)"))
            .prints("EPERM\nEPERM\nEPERM\nEROFS\nENOENT\nENOENT\nENOENT\nEROFS\nERR_SYSTEM_ERROR\n"),
    ];
    in_arena("node", async |arena| drop(unleash(arena, &programs).await)).await;
}

fn bash(name: &'static str, script: &str) -> Evil {
    Evil::new(name, &["bash", "-c", script])
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_scripts_reach_nothing() {
    let programs = [
        bash("bomb", ":(){ :|:& };:; sleep 1000").within(json!({"processes": 32})).gets(Verdict::ProcessLimit, Cause::Pids),
        bash("yes", "yes").gets(Verdict::OutputLimit, Cause::Stdout),
        bash("yes-err", "yes >&2").gets(Verdict::OutputLimit, Cause::Stderr),
        bash("zeros", "cat /dev/zero").gets(Verdict::OutputLimit, Cause::Stdout),
        bash("no-newline", "printf end").prints("end"),
        bash("silent", ":").prints(""),
        bash("one-line", "head -c 300000 /dev/zero | tr '\\0' x").writes(300_000),
        bash("network", "for to in tcp/127.0.0.1/1000 udp/10.0.0.1/53; do (exec 3<>/dev/$to) 2>/dev/null && echo reached; done; echo done").prints("done\n"),
        bash("limits", "ulimit -n 100000 2>/dev/null && echo more; ulimit -u unlimited 2>/dev/null; ulimit -c unlimited 2>/dev/null && echo core; echo done").prints("done\n"),
        bash("sysrq", "{ echo b > /proc/sysrq-trigger; } 2>/dev/null && echo wrote; { echo 1 > /proc/sys/kernel/panic; } 2>/dev/null && echo wrote; echo done").prints("done\n"),
        bash("power", "for c in reboot poweroff halt 'shutdown now' 'telinit 0' 'kill -9 1' 'kill -STOP 1' 'kill -TERM 1'; do $c 2>/dev/null && echo $c; done; echo done").prints("done\n"),
        bash("disks", "for d in vda vdb sda mem kmsg; do head -c 1 /dev/$d 2>/dev/null && echo $d; done; mknod d b 254 0 2>/dev/null && echo made; echo done").prints("done\n"),
        bash("mounts", "mount -t tmpfs x /tmp 2>/dev/null && echo mounted; umount /proc 2>/dev/null && echo unmounted; unshare -r true 2>/dev/null && echo root; chroot / true 2>/dev/null && echo chroot; echo done").prints("done\n"),
        bash("deep", "d=$(printf 'd/%.0s' {1..300}); mkdir -p /tmp/$d && cd /tmp/$d && pwd | wc -c").prints("605\n"),
        bash("unreadable", "mkdir -p locked/in && chmod 000 locked && echo locked").prints("locked\n"),
        // The read-only image stands, and the agent keeps its own.
        bash("remove-all", "rm -rf --no-preserve-root / 2>/dev/null; chmod -R 000 /work /tmp 2>/dev/null; type -t echo").prints("builtin\n"),
        bash("after-that", "echo still here").prints("still here\n"),
        bash("restore", "chmod 755 /work; chmod 1777 /tmp; echo x > /work/x && cat /work/x").prints("x\n"),
        bash("traps", "trap '' TERM INT HUP QUIT; trap 'exec \"$0\" -c \"sleep 1000\"' EXIT; sleep 1000")
            .within(json!({"wall_ms": 3000}))
            .gets(Verdict::TimeLimit, Cause::Idle),
    ];
    in_arena("bash", async |arena| drop(unleash(arena, &programs).await)).await;
}
