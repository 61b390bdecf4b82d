//! Every command in every state, and random walks over them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ids::{AdapterDigest, BaseDigest, BasisPoints, ModelName, Sha256Digest, UnitId, UnixMillis};
use proptest::prelude::*;
use rollout::{Arm, Command, Previous, Rollout, Status, TransitionError, Verdict};

fn adapter(name: &str) -> AdapterDigest {
    AdapterDigest(Sha256Digest::of(name.as_bytes()))
}

fn points(share: u32) -> BasisPoints {
    BasisPoints::new(share).unwrap()
}

fn idle() -> Rollout {
    let id = ModelName::new("support").unwrap();
    Rollout::new(
        id,
        BaseDigest(Sha256Digest::of(b"base")),
        None,
        UnixMillis(0),
    )
}

fn canary(name: &str, salt: &str) -> Command {
    Command::SetCanary {
        adapter: adapter(name),
        basis_points: points(500),
        new_salt: salt.to_owned(),
    }
}

fn abort() -> Command {
    Command::Abort {
        reason: "too repetitive".to_owned(),
    }
}

fn after(commands: &[Command]) -> Rollout {
    commands.iter().fold(idle(), |rollout, command| {
        rollout
            .apply(command.clone(), UnixMillis(rollout.updated_at.0 + 1))
            .unwrap()
    })
}

/// One rollout in each state.
fn each_state() -> [Rollout; 5] {
    [
        idle(),
        after(&[canary("a", "s1")]),
        after(&[canary("a", "s1"), Command::Pause]),
        after(&[canary("a", "s1"), Command::Promote]),
        after(&[canary("a", "s1"), abort()]),
    ]
}

#[test]
fn every_command_in_every_state() {
    use Status::{Aborted, Idle, Paused, Promoted, Running};
    // Columns: idle, running, paused, promoted, aborted; None is an error.
    type Row = (Command, [Option<Status>; 5]);
    let table: [Row; 7] = [
        (
            canary("b", "s2"),
            [Some(Running), None, None, Some(Running), Some(Running)],
        ),
        (
            Command::SetShare(points(9)),
            [None, Some(Running), Some(Paused), None, None],
        ),
        (Command::Pause, [None, Some(Paused), None, None, None]),
        (Command::Resume, [None, None, Some(Running), None, None]),
        (
            Command::Promote,
            [None, Some(Promoted), Some(Promoted), None, None],
        ),
        (abort(), [None, Some(Aborted), Some(Aborted), None, None]),
        (Command::Rollback, [None, None, None, Some(Idle), None]),
    ];
    for (command, expected) in table {
        for (rollout, expected) in each_state().iter().zip(expected) {
            let found = rollout.apply(command.clone(), UnixMillis(99));
            let name = format!("{} while {}", command.name(), rollout.status.as_str());
            assert_eq!(
                found.as_ref().ok().map(|r| r.status),
                expected,
                "{name}: {found:?}"
            );
            if let Ok(next) = found {
                assert_eq!(next.updated_at, UnixMillis(99), "{name}");
                next.check().unwrap();
            }
        }
    }
}

#[test]
fn impossible_commands_say_which_and_when() {
    let running = after(&[canary("a", "s1")]);
    assert_eq!(
        running.apply(canary("b", "s2"), UnixMillis(2)),
        Err(TransitionError::Impossible {
            command: "set_canary",
            status: Status::Running
        })
    );
    // Two administrators: the second one's promotion is stale.
    let promoted = running.apply(Command::Promote, UnixMillis(2)).unwrap();
    let error = promoted.apply(Command::Promote, UnixMillis(3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "promote is not possible while the rollout is promoted"
    );
    let error = idle().apply(Command::Rollback, UnixMillis(1)).unwrap_err();
    assert_eq!(error, TransitionError::NothingToRollBack);
}

#[test]
fn a_new_canary_needs_a_new_salt_and_another_version() {
    let aborted = after(&[canary("a", "s1"), abort()]);
    let again = aborted.apply(canary("b", "s1"), UnixMillis(9));
    assert_eq!(again, Err(TransitionError::SaltReused));
    let empty = aborted.apply(canary("b", ""), UnixMillis(9));
    assert!(matches!(
        empty,
        Err(TransitionError::Invalid { field: "salt", .. })
    ));
    let long = aborted.apply(canary("b", &"x".repeat(129)), UnixMillis(9));
    assert!(matches!(
        long,
        Err(TransitionError::Invalid { field: "salt", .. })
    ));
    let promoted = after(&[canary("a", "s1"), Command::Promote]);
    let same = promoted.apply(canary("a", "s2"), UnixMillis(9));
    assert_eq!(same, Err(TransitionError::CanaryIsStable(adapter("a"))));
}

#[test]
fn promotion_and_rollback_restore_the_previous_stable() {
    let first = after(&[canary("a", "s1"), Command::Promote]);
    assert_eq!(first.stable, Some(adapter("a")));
    assert_eq!(first.previous_stable, Some(Previous { adapter: None }));
    assert_eq!(
        (first.canary, first.basis_points),
        (None, BasisPoints::ZERO)
    );
    let second = first.apply(canary("b", "s2"), UnixMillis(9)).unwrap();
    let second = second.apply(Command::Promote, UnixMillis(10)).unwrap();
    assert_eq!(second.stable, Some(adapter("b")));
    let back = second.apply(Command::Rollback, UnixMillis(11)).unwrap();
    assert_eq!(back.stable, Some(adapter("a")));
    let twice = back.apply(Command::Rollback, UnixMillis(12));
    assert_eq!(twice, Err(TransitionError::NothingToRollBack));
    // Back to the bare base is a rollback too, and one is possible after a later abort.
    let aborted = first.apply(canary("b", "s2"), UnixMillis(9)).unwrap();
    let aborted = aborted.apply(abort(), UnixMillis(10)).unwrap();
    assert_eq!(
        aborted
            .apply(Command::Rollback, UnixMillis(11))
            .unwrap()
            .stable,
        None
    );
}

#[test]
fn an_abort_moves_everyone_to_stable_at_once() {
    let running = after(&[canary("a", "s1"), Command::SetShare(BasisPoints::WHOLE)]);
    let aborted = running.apply(abort(), UnixMillis(9)).unwrap();
    assert_eq!(aborted.abort_reason.as_deref(), Some("too repetitive"));
    assert_eq!(aborted.last_canary, Some(adapter("a")));
    for i in 0..1_000 {
        let user = UnitId::new(format!("user-{i}")).unwrap();
        assert_eq!(running.assign(Some(&user), 0).arm, Arm::Canary);
        assert_eq!(aborted.assign(Some(&user), 0).adapter, None);
    }
    assert_eq!(aborted.assign(None, 0).arm, Arm::Stable);
}

#[test]
fn the_schedule_steps_when_due_holds_when_unsure_and_aborts_on_failure() {
    let mut running = after(&[canary("a", "s1")]);
    running.steps = vec![points(100), points(1_000), points(5_000)];
    running.interval_ms = 60_000;
    let start = running.updated_at;
    let early = start.plus(Duration::from_millis(59_999));
    let due = start.plus(Duration::from_secs(60));
    assert_eq!(running.due(&Verdict::Pass, early), None);
    assert_eq!(
        running.due(&Verdict::Pass, due),
        Some(Command::SetShare(points(1_000)))
    );
    assert_eq!(running.due(&Verdict::Inconclusive, due), None);
    let fail = Verdict::Fail {
        reason: "errors".to_owned(),
    };
    let abort = Command::Abort {
        reason: "errors".to_owned(),
    };
    assert_eq!(running.due(&fail, early), Some(abort.clone()));
    let paused = running.apply(Command::Pause, start).unwrap();
    assert_eq!(paused.due(&Verdict::Pass, due), None);
    assert_eq!(paused.due(&fail, due), Some(abort));
    let last = running
        .apply(Command::SetShare(points(5_000)), start)
        .unwrap();
    assert_eq!(
        last.due(&Verdict::Pass, due),
        None,
        "never promotes by itself"
    );
    assert_eq!(idle().due(&fail, due), None);
}

#[test]
fn documents_from_outside_are_checked() {
    let check = |change: &dyn Fn(&mut Rollout)| {
        let mut rollout = after(&[canary("a", "s1")]);
        change(&mut rollout);
        rollout
            .check()
            .err()
            .map(|error| error.to_string().split(':').next().unwrap().to_owned())
    };
    assert_eq!(check(&|_| ()), None);
    assert_eq!(
        check(&|r| r.steps = vec![points(5), points(5)]),
        Some("steps".to_owned())
    );
    assert_eq!(
        check(&|r| r.steps = (0..33).map(points).collect()),
        Some("steps".to_owned())
    );
    assert_eq!(check(&|r| r.canary = None), Some("canary".to_owned()));
    assert_eq!(check(&|r| r.stable = r.canary), Some("canary".to_owned()));
    assert_eq!(check(&|r| r.salt.clear()), Some("salt".to_owned()));
    assert_eq!(
        check(&|r| r.status = Status::Idle),
        Some("canary".to_owned())
    );
    let ended = |r: &mut Rollout| (r.status, r.canary) = (Status::Aborted, None);
    assert_eq!(check(&ended), Some("basis_points".to_owned()));
}

#[test]
fn a_document_of_an_older_version_is_read() {
    let old = r#"{"id":"support","base":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","stable":null,"status":"idle","updated_at":5}"#;
    let rollout: Rollout = serde_json::from_str(old).unwrap();
    assert_eq!(
        (rollout.status, rollout.updated_at),
        (Status::Idle, UnixMillis(5))
    );
    rollout.check().unwrap();
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        ("[ab]", 0u32..=10_000, "[st]").prop_map(|(name, share, new_salt)| Command::SetCanary {
            adapter: adapter(&name),
            basis_points: points(share),
            new_salt,
        }),
        (0u32..=10_000).prop_map(|share| Command::SetShare(points(share))),
        Just(Command::Pause),
        Just(Command::Resume),
        Just(Command::Promote),
        Just(abort()),
        Just(Command::Rollback),
    ]
}

proptest! {
    #[test]
    fn random_walks_keep_the_invariants(commands in prop::collection::vec(any_command(), 1..60)) {
        let mut rollout = idle();
        for (step, command) in commands.into_iter().enumerate() {
            let promotes = command == Command::Promote;
            let now = UnixMillis(i64::try_from(step).unwrap() + 1);
            let Ok(next) = rollout.apply(command.clone(), now) else { continue };
            prop_assert!(next.check().is_ok(), "{command:?} gave {next:?}");
            if promotes {
                prop_assert_eq!(next.stable, rollout.canary);
                let back = next.apply(Command::Rollback, now).unwrap();
                prop_assert_eq!(back.stable, rollout.stable);
            } else if command != Command::Rollback {
                prop_assert_eq!(next.stable, rollout.stable, "only these two change stable");
            }
            if matches!(command, Command::SetShare(_)) {
                prop_assert_eq!(&next.salt, &rollout.salt);
            }
            rollout = next;
        }
    }
}
