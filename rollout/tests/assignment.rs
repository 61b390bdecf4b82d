//! Assignment: golden buckets from another language, 100,000 users, and what
//! may move when.
#![allow(clippy::unwrap_used)]

use ids::{AdapterDigest, BaseDigest, BasisPoints, ModelName, Sha256Digest, UnitId, UnixMillis};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rollout::{Arm, BUCKETS, Command, Rollout, bucket};

const USERS: u32 = 100_000;

fn adapter(name: &str) -> AdapterDigest {
    AdapterDigest(Sha256Digest::of(name.as_bytes()))
}

fn with_canary(share: u32, salt: &str) -> Rollout {
    let id = ModelName::new("support").unwrap();
    let base = BaseDigest(Sha256Digest::of(b"base"));
    let idle = Rollout::new(id, base, Some(adapter("stable")), UnixMillis(0));
    let set = Command::SetCanary {
        adapter: adapter("canary"),
        basis_points: BasisPoints::new(share).unwrap(),
        new_salt: salt.to_owned(),
    };
    idle.apply(set, UnixMillis(1)).unwrap()
}

fn with_share(rollout: &Rollout, share: u32) -> Rollout {
    rollout
        .apply(
            Command::SetShare(BasisPoints::new(share).unwrap()),
            UnixMillis(2),
        )
        .unwrap()
}

fn users() -> Vec<UnitId> {
    (0..USERS)
        .map(|i| UnitId::new(format!("user-{i}")).unwrap())
        .collect()
}

#[test]
fn buckets_equal_those_of_python() {
    let golden = include_str!("golden_buckets.tsv");
    let mut rows = 0;
    for line in golden.lines() {
        let mut columns = line.split('\t');
        let (salt, unit) = (columns.next().unwrap(), columns.next().unwrap());
        let expected: u16 = columns.next().unwrap().parse().unwrap();
        assert_eq!(bucket(salt, unit), expected, "{salt:?} {unit:?}");
        rows += 1;
    }
    assert_eq!(rows, 100);
}

#[test]
fn the_observed_share_of_100_000_users_is_within_four_sigma() {
    let users = users();
    for salt in ["one", "two", "three"] {
        for share in [0, 1, 50, 500, 2_500, 5_000, 9_900, 10_000] {
            let rollout = with_canary(share, salt);
            let canaries = users
                .iter()
                .filter(|u| rollout.assign(Some(u), 0).arm == Arm::Canary)
                .count();
            let (n, p) = (f64::from(USERS), f64::from(share) / 10_000.0);
            let off = (canaries as f64 - n * p).abs();
            let sigma = (n * p * (1.0 - p)).sqrt();
            assert!(
                off <= 4.0 * sigma,
                "{canaries} canaries at {share} with salt {salt}"
            );
        }
    }
}

#[test]
fn no_user_moves_back_while_the_share_rises() {
    let users = users();
    let mut rollout = with_canary(0, "salt");
    let mut before = vec![Arm::Stable; users.len()];
    for share in [1, 5, 100, 500, 2_500, 5_000, 7_777, 9_999, 10_000] {
        rollout = with_share(&rollout, share);
        let now: Vec<Arm> = users
            .iter()
            .map(|u| rollout.assign(Some(u), 0).arm)
            .collect();
        let back = before
            .iter()
            .zip(&now)
            .filter(|(b, n)| **b == Arm::Canary && **n == Arm::Stable);
        assert_eq!(back.count(), 0, "users moved back at {share}");
        before = now;
    }
    assert!(before.iter().all(|arm| *arm == Arm::Canary));
}

#[test]
fn another_salt_picks_other_users() {
    let (one, two) = (with_canary(1_000, "one"), with_canary(1_000, "two"));
    let both = users()
        .iter()
        .filter(|u| {
            let is_canary = |r: &Rollout| r.assign(Some(u), 0).arm == Arm::Canary;
            is_canary(&one) && is_canary(&two)
        })
        .count();
    // A tenth of a tenth, by chance alone: 1000 ± 4 · 31.5.
    assert!((874..=1126).contains(&both), "{both} users are in both");
}

#[test]
fn assignments_survive_being_stored() {
    let rollout = with_canary(2_500, "salt");
    let stored = serde_json::to_string(&rollout).unwrap();
    let restored: Rollout = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored, rollout);
    for user in users().iter().take(10_000) {
        assert_eq!(
            restored.assign(Some(user), 0),
            rollout.assign(Some(user), 9_999)
        );
    }
}

#[test]
fn without_a_unit_the_draw_decides_and_nothing_is_counted() {
    let rollout = with_canary(500, "salt");
    assert_eq!(rollout.assign(None, 499).arm, Arm::Canary);
    assert_eq!(rollout.assign(None, 500).arm, Arm::Stable);
    assert!(!rollout.assign(None, 499).counted);
    let whole = with_canary(10_000, "salt");
    assert_eq!(
        whole.assign(None, u16::MAX).arm,
        Arm::Canary,
        "an impossible draw is folded"
    );
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let canaries = (0..USERS)
        .filter(|_| rollout.assign(None, random.random_range(0..BUCKETS)).arm == Arm::Canary)
        .count();
    // 5000 ± 4 · 69.
    assert!(
        (4_724..=5_276).contains(&canaries),
        "{canaries} canaries of random draws"
    );
}

#[test]
fn each_arm_has_its_own_adapter_and_only_trials_count() {
    let unit = UnitId::new("u").unwrap();
    let running = with_canary(10_000, "salt");
    let assigned = running.assign(Some(&unit), 0);
    assert_eq!(
        (assigned.adapter, assigned.counted),
        (Some(adapter("canary")), true)
    );
    let none = with_share(&running, 0).assign(Some(&unit), 0);
    assert_eq!(
        (none.adapter, none.counted),
        (Some(adapter("stable")), true)
    );
    let abort = Command::Abort {
        reason: "bad".to_owned(),
    };
    let aborted = running
        .apply(abort, UnixMillis(3))
        .unwrap()
        .assign(Some(&unit), 0);
    assert_eq!(
        (aborted.adapter, aborted.counted),
        (Some(adapter("stable")), false)
    );
}

proptest! {
    #[test]
    fn a_bucket_depends_on_salt_and_unit_alone_and_is_in_range(salt in ".{0,40}", unit in ".{1,60}") {
        let one = bucket(&salt, &unit);
        prop_assert!(one < BUCKETS);
        prop_assert_eq!(one, bucket(&salt.clone(), &unit.clone()));
    }

    #[test]
    fn raising_the_share_only_moves_to_the_canary(
        unit in ".{1,60}", salt in "[a-z]{1,10}", low in 0u32..=10_000, more in 0u32..=10_000,
    ) {
        let unit = UnitId::new(unit).unwrap();
        let high = (low + more).min(10_000);
        let before = with_canary(low, &salt);
        let after = with_share(&before, high);
        if before.assign(Some(&unit), 0).arm == Arm::Canary {
            prop_assert_eq!(after.assign(Some(&unit), 0).arm, Arm::Canary);
        }
    }
}
