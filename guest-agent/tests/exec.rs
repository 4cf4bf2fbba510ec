//! Commands, run by the real agent on this host.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may"
)]

mod support;

use std::time::Duration;

use hearth_schemas::guest::messages::{Exec, ExecLimits, FaultKind, LimitHit, User, request};
use support::{Agent, LONG, Ran, command, eventually, process_is_alive, sh};
use tokio::time::timeout;

fn limited(script: &str, limits: ExecLimits) -> Exec {
    Exec { limits: Some(limits), ..sh(script) }
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap().trim_end()
}

fn pid_in(ran: &Ran) -> u32 {
    text(&ran.stdout).lines().last().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_command_gets_its_words_its_environment_and_nothing_else() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let mut exec = command(&["env", "-u", "PATH"]);
    exec.env.insert("MARK".into(), "ä b".into());
    let ran = client.run(exec).await.unwrap();
    assert_eq!(text(&ran.stdout), "MARK=ä b");
    let ran = client.run(command(&["printf", "%s|", "a b", "", "*"])).await.unwrap();
    assert_eq!(text(&ran.stdout), "a b||*|");
    let ran = client.sh("ls /proc/self/fd | tr '\\n' ' '; umask; ulimit -c; cat <&0; pwd").await;
    let tree = agent.tree().canonicalize().unwrap();
    // 3 is ls's own handle on the directory.
    assert_eq!(text(&ran.stdout), format!("0 1 2 3 0022\n0\n{}", tree.display()));
    assert_eq!((ran.exited.exit_code, ran.exited.limit_hit()), (Some(0), LimitHit::None));
}

#[tokio::test]
async fn signals_are_as_a_new_process_expects_them() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let ran = client.sh("grep -E '^Sig(Blk|Ign)' /proc/self/status; yes | head -1; kill -TERM $$").await;
    assert_eq!(text(&ran.stdout), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\ny");
    assert_eq!((ran.exited.exit_code, ran.exited.signal), (None, Some(15)));
}

#[tokio::test]
async fn a_job_gets_no_socket_but_a_local_one_and_no_new_rights() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    // AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK.
    let script = "for my $family (1, 2, 10, 16, 40) { print socket(my $s, $family, $family == 16 ? 3 : 1, 0) ? 'open' : 0 + $!, ' ' }";
    let ran = client.run(command(&["perl", "-e", script])).await;
    assert_eq!(text(&ran.unwrap().stdout), "open 97 97 97 97", "97 is EAFNOSUPPORT");
    let ran = client.sh("grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status").await;
    assert_eq!(text(&ran.stdout), "NoNewPrivs:\t1\nSeccomp:\t2");
    let as_root = Exec { user: User::Root.into(), ..sh("grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status") };
    let ran = client.run(as_root).await.unwrap();
    assert_eq!(text(&ran.stdout), "NoNewPrivs:\t0\nSeccomp:\t0", "a warm-up is not a job");
}

#[tokio::test]
async fn exit_codes_and_usage_are_told() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    for code in [0, 1, 42, 255] {
        assert_eq!(client.sh(&format!("exit {code}")).await.exited.exit_code, Some(code));
    }
    let ran = client.sh("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done").await;
    let usage = ran.exited.usage.unwrap();
    assert!(usage.wall_us > 1000 && usage.user_us > 1000, "{usage:?}");
    assert_eq!((ran.exited.stdout_bytes, ran.exited.stderr_bytes), (5, 0));
}

#[tokio::test]
async fn what_cannot_be_executed_is_a_fault_with_the_reason() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    std::fs::write(agent.tree().join("text"), "no program").unwrap();
    std::fs::create_dir(agent.tree().join("dir")).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::write(agent.tree().join("noexec"), "no program").unwrap();
    std::fs::set_permissions(agent.tree().join("noexec"), executable).unwrap();
    for (argv, kind, reason) in [
        (vec!["no-such-command"], FaultKind::Exec, "No such file"),
        (vec!["./missing"], FaultKind::Exec, "No such file"),
        (vec!["./text"], FaultKind::Exec, "Permission denied"),
        (vec!["./dir"], FaultKind::Exec, "Permission denied"),
        (vec!["./noexec"], FaultKind::Exec, "Exec format error"),
        (vec![], FaultKind::Unsupported, "argv"),
    ] {
        let fault = client.run(command(&argv)).await.unwrap_err();
        assert_eq!(fault.kind(), kind, "{fault:?}");
        assert!(fault.message.contains(reason), "{fault:?}");
    }
    for cwd in ["missing", "text", "../", "/"] {
        let fault = client.run(Exec { cwd: cwd.into(), ..sh("true") }).await.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Path, "{cwd}: {fault:?}");
    }
    let ran = client.run(Exec { cwd: "dir".into(), ..sh("basename $(pwd)") }).await.unwrap();
    assert_eq!(text(&ran.stdout), "dir");
    let unopened = Exec { stdout: 77, stderr: 78, ..sh("true") };
    let mut stream = client.open(request::Body::Exec(unopened)).await;
    let answer = support::answer(&mut stream).await;
    assert!(format!("{answer:?}").contains("stdout names stream 77"), "{answer:?}");
}

#[tokio::test]
async fn stdin_and_large_output_pass_whole() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 256) as u8).collect();
    let mut running = client.start(command(&["cat"]), true).await;
    running.started().await.unwrap();
    let stdin = running.stdin.take().unwrap();
    let data = sent.clone();
    let feeding = tokio::spawn(async move {
        stdin.sender.data(data.into()).await.unwrap();
        stdin.sender.end().await.unwrap();
    });
    let ran = running.end().await.unwrap();
    feeding.await.unwrap();
    assert!(ran.stdout == sent);
    // Nobody reads: neither the feeder nor the answer may hang on that.
    let mut running = client.start(command(&["true"]), true).await;
    running.started().await.unwrap();
    let stdin = running.stdin.take().unwrap();
    let feeding = tokio::spawn(async move { stdin.sender.data(vec![0; 10_000_000].into()).await });
    assert_eq!(running.end().await.unwrap().exited.exit_code, Some(0));
    let refused = timeout(LONG, feeding).await.expect("the feeder is told").unwrap();
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_slow_reader_holds_the_command_back_and_not_the_agent() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let mut running = client.start(sh("yes | head -c 50000000"), false).await;
    running.started().await.unwrap();
    // The credit of the stream is used up, then the pipe, then the command waits.
    let before = support::resident_kib(agent.pid());
    for _ in 0..50 {
        client.ping().await;
    }
    assert!(support::resident_kib(agent.pid()) < before + 8 * 1024);
    let ran = running.end().await.unwrap();
    assert_eq!(ran.stdout.len(), 50_000_000);
}

#[tokio::test]
async fn nothing_of_a_tree_outlives_its_command() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    for script in [
        // Own session, double fork, deaf to SIGTERM, stopped: each tells its pid and stays.
        "setsid sh -c 'echo $$; exec sleep 1000' & sleep 0.3",
        "(setsid sh -c 'echo $$; exec sleep 1000' &) ; sleep 0.3",
        "(trap '' TERM HUP INT; echo $$ > /dev/null; sh -c 'echo $$; exec sleep 1000' &) ; sleep 0.3",
        "sh -c 'echo $$; kill -STOP $$; sleep 1000' & sleep 0.3",
        "sh -c 'echo $$; kill -STOP $PPID $$' & sleep 0.3; echo not reached",
    ] {
        let limits = ExecLimits { wall_ms: Some(2000), ..ExecLimits::default() };
        let ran = client.run(limited(script, limits)).await.unwrap();
        assert!(!process_is_alive(pid_in(&ran)), "{script}");
    }
    eventually(|| support::children_of(agent.pid()).is_empty(), "every orphan is reaped").await;
}

#[tokio::test]
async fn children_left_behind_do_not_change_the_result() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let ran = client.sh("(while :; do echo noise; sleep 0.01; done) & exit 7").await;
    assert_eq!((ran.exited.exit_code, ran.exited.killed), (Some(7), false));
    assert_eq!(ran.exited.stdout_bytes, ran.stdout.len() as u64);
}

#[tokio::test]
async fn a_wall_limit_a_kill_and_a_lost_host_end_the_tree() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let stubborn = "trap '' TERM; (setsid sleep 1000 &); echo ready; while :; do sleep 1; done";
    let limits = ExecLimits { wall_ms: Some(300), ..ExecLimits::default() };
    let ran = client.run(limited(stubborn, limits)).await.unwrap();
    assert_eq!((ran.exited.signal, ran.exited.limit_hit()), (Some(9), LimitHit::Wall));
    assert_eq!(text(&ran.stdout), "ready", "what was written before is kept");

    let mut running = client.start(sh(stubborn), false).await;
    running.started().await.unwrap();
    running.kill().await;
    let ran = running.end().await.unwrap();
    assert_eq!((ran.exited.signal, ran.exited.killed), (Some(9), true));
    assert_eq!(ran.exited.limit_hit(), LimitHit::None);

    let mut running = client.start(sh(stubborn), false).await;
    let pid = running.started().await.unwrap();
    drop(running);
    eventually(|| !process_is_alive(pid), "a dropped stream kills").await;

    let other = agent.client().await;
    let mut running = other.start(sh(stubborn), false).await;
    let pid = running.started().await.unwrap();
    drop((running, other));
    eventually(|| !process_is_alive(pid), "a dropped connection kills").await;
    eventually(|| support::children_of(agent.pid()).is_empty(), "and all is reaped").await;
    client.ping().await;
}

#[tokio::test]
async fn output_beyond_its_limit_is_cut_and_ends_the_command() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let limits = || ExecLimits { output_bytes: Some(100_000), ..ExecLimits::default() };
    let ran = client.run(limited("yes >&2", limits())).await.unwrap();
    assert_eq!((ran.stderr.len(), ran.exited.limit_hit()), (100_000, LimitHit::Output));
    assert!(ran.exited.stderr_bytes > 100_000);
    let ran = client.run(limited("yes | head -c 100000", limits())).await.unwrap();
    assert_eq!((ran.stdout.len(), ran.exited.limit_hit()), (100_000, LimitHit::None));
    assert_eq!(ran.exited.exit_code, Some(0));
}

#[tokio::test]
async fn cpu_time_is_limited_for_the_whole_tree() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let limits = ExecLimits { cpu_ms: Some(300), wall_ms: Some(30_000), ..ExecLimits::default() };
    let spin = "(setsid sh -c 'while :; do :; done' &); while :; do :; done";
    let ran = client.run(limited(spin, limits)).await.unwrap();
    assert_eq!(ran.exited.limit_hit(), LimitHit::Cpu);
    let usage = ran.exited.usage.unwrap();
    assert!((300_000..2_000_000).contains(&(usage.user_us + usage.system_us)), "{usage:?}");
}

#[tokio::test]
async fn files_are_limited_in_number_and_in_size() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    assert_eq!(text(&client.sh("ulimit -n; ulimit -H -n; ulimit -f").await.stdout), "1024\n16384\nunlimited");
    let limits =
        |open_files, file_size_bytes| ExecLimits { open_files, file_size_bytes, ..ExecLimits::default() };
    let ran = client.run(limited("ulimit -n; ulimit -H -n", limits(Some(16), None))).await.unwrap();
    assert_eq!(text(&ran.stdout), "16\n16");
    let large = |script: &str| limited(script, limits(None, Some(1 << 20)));
    let ran = client.run(large("exec head -c 2000000 /dev/zero > large")).await.unwrap();
    assert_eq!((ran.exited.signal, ran.exited.limit_hit()), (Some(25), LimitHit::FileSize));
    assert_eq!(std::fs::metadata(agent.tree().join("large")).unwrap().len(), 1 << 20);
    let ran = client.run(large("trap '' XFSZ; head -c 2000000 /dev/zero > large; echo $?")).await.unwrap();
    assert_eq!((text(&ran.stdout), ran.exited.limit_hit()), ("1", LimitHit::None), "{ran:?}");
    let ran = client
        .run(large("head -c 1048576 /dev/zero > large && yes | head -c 2000000 | wc -c"))
        .await
        .unwrap();
    assert_eq!((text(&ran.stdout), ran.exited.limit_hit()), ("2000000", LimitHit::None), "no pipe is a file");
}

#[tokio::test]
async fn a_limit_without_its_means_is_refused_by_name() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let has = |name: &str| client.hello.controllers.iter().any(|controller| controller == name);
    for (limits, field, held) in [
        (ExecLimits { memory_bytes: Some(1 << 26), ..ExecLimits::default() }, "memory_bytes", has("memory")),
        (ExecLimits { processes: Some(50), ..ExecLimits::default() }, "processes", has("pids")),
        (ExecLimits { disk_bytes: Some(1 << 26), ..ExecLimits::default() }, "disk_bytes", false),
        (ExecLimits { files: Some(50), ..ExecLimits::default() }, "files", false),
        (ExecLimits { open_files: Some(15), ..ExecLimits::default() }, "open_files", false),
        (ExecLimits { file_size_bytes: Some(0), ..ExecLimits::default() }, "file_size_bytes", false),
        (ExecLimits { wall_ms: Some(0), ..ExecLimits::default() }, "wall_ms", false),
    ] {
        match client.run(limited("true", limits)).await {
            Ok(_) => assert!(held, "{field} is not held and not refused"),
            Err(fault) => {
                assert!(!held && fault.kind() == FaultKind::Unsupported, "{fault:?}");
                assert!(fault.message.contains(field), "{fault:?}");
            }
        }
    }
}

#[tokio::test]
async fn commands_run_at_once_and_pings_pass_them() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let hog = client
        .start(
            limited("while :; do :; done", ExecLimits { wall_ms: Some(3000), ..ExecLimits::default() }),
            false,
        )
        .await;
    let mut others = Vec::new();
    for number in 0..8 {
        others.push(client.start(sh(&format!("sleep 0.05; echo {number}")), false).await);
    }
    for (number, other) in others.into_iter().enumerate() {
        assert_eq!(text(&other.finish().await.unwrap().stdout), number.to_string());
        timeout(Duration::from_secs(5), client.ping()).await.expect("a ping passes a CPU hog");
    }
    hog.kill().await;
    assert!(hog.finish().await.unwrap().exited.killed);
}

#[tokio::test]
async fn root_runs_nothing_after_the_wake() {
    let agent = Agent::start().await;
    let client = agent.client().await;
    let as_root = || Exec { user: User::Root.into(), ..sh("echo warm") };
    assert_eq!(text(&client.run(as_root()).await.unwrap().stdout), "warm");
    let wake = |token| request::Body::Wake(support::wake(token));
    let woken = client.ask(wake(5)).await;
    assert!(format!("{woken:?}").contains("entropy_bytes: 0"), "a host is left alone: {woken:?}");
    assert!(agent.client().await.hello.awake);
    assert_eq!(client.run(as_root()).await.unwrap_err().kind(), FaultKind::Unsupported);
    assert_eq!(text(&client.sh("echo job").await.stdout), "job");
    assert!(format!("{:?}", client.ask(wake(5)).await).starts_with("Woken"), "again, the same");
    assert!(format!("{:?}", client.ask(wake(6)).await).starts_with("Woken"));
    assert!(format!("{:?}", client.ask(wake(5)).await).contains("identity.token"), "never down");
}

#[tokio::test]
async fn a_stop_leaves_neither_processes_nor_cgroups() {
    let mut agent = Agent::start().await;
    let client = agent.client().await;
    let mut running = client.start(sh("(setsid sleep 1000 &); sleep 1000"), false).await;
    let pid = running.started().await.unwrap();
    let group = support::cgroup_of(pid);
    assert!(group.is_dir());
    client.shutdown().await;
    drop((running, client));
    assert!(agent.ended().await.success());
    assert!(!process_is_alive(pid));
    assert!(!group.exists() && !group.parent().unwrap().exists());
}
