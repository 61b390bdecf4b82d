//! The `flywheel` program: the gateway and its administration.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    gateway::cli::run(gateway::cli::Cli::parse())
}
