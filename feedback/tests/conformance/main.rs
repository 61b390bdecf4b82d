//! What every feedback store does, run on SQLite and on a real Redis server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod events;
mod sample;
mod sharing;
mod votes;

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
    votes::same_vote_again_changes_nothing,
    votes::a_flip_supersedes_and_keeps_the_history,
    votes::an_idempotency_id_stands_for_one_body,
    votes::a_retracted_vote_counts_no_longer,
    votes::an_unknown_answer_needs_a_token,
    votes::a_vote_is_credited_to_what_is_stored_with_the_answer,
    votes::the_unit_is_the_rater_where_none_is_named,
    votes::values_and_tags_are_checked,
    votes::each_metric_and_each_rater_has_its_own_vote,
    votes::export_goes_on_from_a_cursor,
    votes::answers_are_kept_once_and_forgotten_by_age,
    events::events_are_delivered_once_and_again_when_idle,
    events::an_event_delivered_too_often_is_a_dead_letter,
    events::groups_are_independent_and_late_ones_miss_only_what_was_trimmed,
    events::backlogs_count_what_is_not_acknowledged,
    events::names_of_groups_are_checked,
    sharing::changes_are_seen_elsewhere_within_a_second,
    sharing::everything_survives_a_restart,
    sharing::votes_from_two_sides_make_one_current_vote,
    sharing::pairs_are_made_of_what_is_stored,
    sharing::what_is_collected_is_bounded_and_the_newest,
);
