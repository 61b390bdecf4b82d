//! What went wrong in a row, and how long nothing is tried after it.

use std::time::{Duration, Instant};

use crate::TrainerError;
use crate::config::Schedule;

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The pause while another trainer is at work.
const BUSY_PAUSE: Duration = Duration::from_secs(30);

/// One kind of work that may go wrong.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// Failures since the last success.
    failures: u32,
    /// Those of the time that is due.
    of_this_time: u32,
    /// How often in a row there was nothing to do it with.
    empty: u32,
    not_before: Option<Instant>,
}

/// What comes of work that went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another trainer is at it; nothing failed.
    Busy,
    /// It is tried again.
    Again,
    /// The same data would go wrong again: its time counts as served.
    Served,
    /// It failed too often: so it does.
    GivenUp,
}

impl Attempts {
    /// Failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long nothing is tried yet.
    pub(crate) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = self.not_before?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// It was done.
    pub(crate) fn went_well(&mut self) {
        *self = Self::default();
    }

    /// It was not done.
    pub(crate) fn went_wrong(
        &mut self,
        error: &TrainerError,
        schedule: &Schedule,
        now: Instant,
    ) -> Next {
        let (next, pause) = match error {
            TrainerError::LeaseLost => (Next::Busy, BUSY_PAUSE),
            TrainerError::NotEnoughData(_) | TrainerError::Trial(_) => {
                (self.failures, self.of_this_time) = (0, 0);
                self.empty = self.empty.saturating_add(1);
                (Next::Served, pause_after(self.empty, schedule))
            }
            _ => {
                self.empty = 0;
                self.failures = self.failures.saturating_add(1);
                self.of_this_time = self.of_this_time.saturating_add(1);
                let pause = pause_after(self.failures, schedule);
                match self.of_this_time < schedule.attempts_max {
                    true => (Next::Again, pause),
                    false => {
                        self.of_this_time = 0;
                        (Next::GivenUp, pause)
                    }
                }
            }
        };
        self.not_before = now.checked_add(pause);
        next
    }
}

/// Doubled with each time.
fn pause_after(times: u32, schedule: &Schedule) -> Duration {
    let first = Duration::from_secs(schedule.backoff_seconds);
    let doubled = first.saturating_mul(1 << times.saturating_sub(1).min(20));
    doubled.min(PAUSE_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn failed() -> TrainerError {
        TrainerError::NotEnoughData(String::new())
    }

    fn away() -> TrainerError {
        TrainerError::Config {
            key: "store",
            problem: "is away".to_owned(),
        }
    }

    #[test]
    fn months_without_data_leave_a_failure_all_its_attempts() {
        let (schedule, now) = (Schedule::default(), Instant::now());
        let mut runs = Attempts::default();
        for _ in 0..5 {
            let next = runs.went_wrong(&failed(), &schedule, now);
            assert_eq!((next, runs.failures()), (Next::Served, 0));
        }
        let mut wrong = |error| runs.went_wrong(&error, &schedule, now);
        let nexts: Vec<Next> = (0..5).map(|_| wrong(away())).collect();
        assert_eq!(nexts[..4], [Next::Again; 4]);
        assert_eq!(nexts[4], Next::GivenUp);
        // so has the next time that is due
        assert_eq!(wrong(away()), Next::Again);
        assert_eq!(runs.failures(), 6);
    }

    #[test]
    fn another_trainers_work_is_no_failure() {
        let (schedule, now) = (Schedule::default(), Instant::now());
        let mut runs = Attempts::default();
        for _ in 0..20 {
            let next = runs.went_wrong(&TrainerError::LeaseLost, &schedule, now);
            assert_eq!((next, runs.failures()), (Next::Busy, 0));
        }
        assert_eq!(runs.pause(now), Some(BUSY_PAUSE));
        assert_eq!(runs.pause(now + BUSY_PAUSE), None);
    }

    #[test]
    fn pauses_grow_up_to_a_day_and_end_with_a_success() {
        let (schedule, now) = (Schedule::default(), Instant::now());
        let mut runs = Attempts::default();
        assert_eq!(runs.pause(now), None);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            runs.went_wrong(&away(), &schedule, now);
            pauses.push(runs.pause(now).unwrap().as_secs());
        }
        assert_eq!(
            (pauses[..3].to_vec(), pauses[39]),
            (vec![60, 120, 240], 86_400)
        );
        runs.went_well();
        assert_eq!((runs.pause(now), runs.failures()), (None, 0));
    }
}
