//! The `hearth` command. Data goes to stdout, everything else to stderr; exit codes as in sysexits.h.

mod cli;
mod config;
mod doctor;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
