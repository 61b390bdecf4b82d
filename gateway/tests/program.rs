//! The program's command line, as far as it needs no gateway.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn flywheel(args: &[&str]) -> Output {
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_flywheel"));
    command
        .env_clear()
        .current_dir(empty.path())
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_command_without_a_key_or_a_gateway_says_so() {
    let output = flywheel(&["rollout", "show"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("FLYWHEEL_ADMIN_KEY"),
        "{said}"
    );
}

#[test]
fn every_command_has_its_help() {
    for command in ["serve", "demo", "adapters", "rollout", "feedback"] {
        assert!(flywheel(&[command, "--help"]).status.success(), "{command}");
    }
    assert!(
        !flywheel(&["serve", "--redis-password", "x"])
            .status
            .success()
    );
}
