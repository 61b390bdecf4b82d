//! What every control store does, run on SQLite and on a real Redis server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod documents;
mod leases;
mod sample;
mod sharing;

/// Makes a test of each case on each store.
macro_rules! on_both_stores {
    ($($module:ident :: $case:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $case() {
                crate::$module::$case(store::testing::Place::sqlite().expect("a folder")).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $case() {
                crate::$module::$case(store::testing::Place::redis().expect("a Redis server")).await;
            })*
        }
    };
}

on_both_stores!(
    documents::a_write_needs_the_right_revision,
    documents::a_removed_document_never_repeats_a_revision,
    documents::kinds_are_apart_and_listed_by_name,
    documents::names_and_sizes_are_checked,
    documents::each_change_is_audited,
    documents::aliases_and_rollouts_are_typed,
    leases::one_holder_at_a_time,
    leases::a_lease_ends_by_the_clock_that_is_passed_in,
    leases::a_fenced_write_needs_the_lease_in_force,
    sharing::changes_are_seen_elsewhere_within_a_second,
    sharing::everything_survives_a_restart,
    sharing::of_two_writers_at_one_revision_one_wins,
);
