//! The real guest agent as a process that plays a VM, for the process test hypervisor.

use std::process::ExitCode;

use hearth_guest_agent::{
    console::{Chain, say},
    process::{Arguments, serve},
};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            say(&error);
            return ExitCode::from(hearth_guest_agent::args::EX_USAGE);
        }
    };
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Chain(&error));
            ExitCode::FAILURE
        }
    }
}
