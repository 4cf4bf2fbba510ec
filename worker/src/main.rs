//! The `hearth` command. Data goes to stdout, everything else to stderr; exit codes as in sysexits.h.

mod cli;
mod config;
mod doctor;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _points = failpoints();
    cli::main().into()
}

/// The points that `FAILPOINTS` names. A panic ends the process at once, as it does in the shipped binary.
#[cfg(feature = "failpoints")]
fn failpoints() -> fail::FailScenario<'static> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    fail::FailScenario::setup()
}
