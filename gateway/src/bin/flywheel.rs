//! The `flywheel` program: the gateway and its administration.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    engine::give_back_freed_memory();
    gateway::cli::run(gateway::cli::Cli::parse())
}
