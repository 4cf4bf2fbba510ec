//! `hearth-agent`: PID 1 of a VM, or with `--unix PATH` a plain process on a host, for tests.

use std::process::ExitCode;

use hearth_guest_agent::{args, boot, console, serve};

/// musl's own gives memory back to the kernel so eagerly that nearly every message maps some.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return boot::life();
    }
    let arguments = match args::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            console::say(&error);
            return ExitCode::from(args::EX_USAGE);
        }
    };
    match serve::on_host(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::say(&console::Chain(&error));
            ExitCode::FAILURE
        }
    }
}
