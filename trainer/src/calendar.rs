//! When the schedule asks for a run, over restarts and sleep.
//!
//! `DATA/trainer/schedule.json` says up to when the schedule was served. A
//! machine that was off or asleep at one of its times, or at several, finds
//! that out when it looks again and runs once.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use ids::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::TrainerError;
use crate::journal::replace;

#[derive(Serialize, Deserialize)]
struct Kept {
    served_until: UnixMillis,
}

pub(crate) struct Calendar {
    cron: croner::Cron,
    file: PathBuf,
    served_until: UnixMillis,
}

impl Calendar {
    /// Reads what is kept in `root`; without it the schedule begins now.
    pub(crate) fn open(
        root: &Path,
        cron: croner::Cron,
        now: UnixMillis,
    ) -> Result<Self, TrainerError> {
        let file = root.join("schedule.json");
        let kept = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
        let mut calendar = Self {
            cron,
            file,
            served_until: now,
        };
        match kept {
            // A clock that was wrong then must not silence the schedule now.
            Some(kept) => calendar.served_until = kept.served_until.min(now),
            None => calendar.served(now)?,
        }
        Ok(calendar)
    }

    /// The first time that was not served.
    pub(crate) fn next(&self) -> Option<UnixMillis> {
        let after = DateTime::<Utc>::from_timestamp_millis(self.served_until.0)?;
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(UnixMillis(next.timestamp_millis()))
    }

    /// Notes that everything up to `now` is served.
    pub(crate) fn served(&mut self, now: UnixMillis) -> Result<(), TrainerError> {
        self.served_until = now;
        let kept = Kept { served_until: now };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        replace(&self.file, &text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use ids::{Clock, ManualClock};

    use super::*;
    use crate::config::Schedule;

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(root: &Path, clock: &ManualClock) -> Calendar {
        let cron = Schedule::default().cron.parse().unwrap();
        Calendar::open(root, cron, clock.now()).unwrap()
    }

    fn due(calendar: &Calendar, clock: &ManualClock) -> bool {
        calendar.next().is_some_and(|next| clock.now() >= next)
    }

    /// 2026-01-31 23:00 UTC; the default schedule is 03:00 on the first.
    fn january() -> ManualClock {
        ManualClock::new(UnixMillis(1_769_900_400_000))
    }

    #[test]
    fn the_default_is_monthly() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), january());
        let mut calendar = open(folder.path(), &clock);
        assert!(!due(&calendar, &clock));
        clock.advance(4 * HOUR);
        assert!(due(&calendar, &clock));
        calendar.served(clock.now()).unwrap();
        let mut runs = 0;
        for _ in 0..365 {
            clock.advance(24 * HOUR);
            if due(&calendar, &clock) {
                runs += 1;
                calendar.served(clock.now()).unwrap();
            }
        }
        assert_eq!(runs, 12);
    }

    #[test]
    fn what_was_slept_through_is_caught_up_once() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), january());
        drop(open(folder.path(), &clock));
        // Off for three months, and three times.
        clock.advance(24 * HOUR * 90);
        let mut calendar = open(folder.path(), &clock);
        assert!(due(&calendar, &clock), "the time was missed");
        calendar.served(clock.now()).unwrap();
        assert!(!due(&calendar, &clock), "once is enough");
        assert!(!due(&open(folder.path(), &clock), &clock));
    }

    #[test]
    fn a_failed_run_stays_due() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), january());
        let calendar = open(folder.path(), &clock);
        clock.advance(4 * HOUR);
        assert!(due(&calendar, &clock));
        clock.advance(HOUR);
        assert!(due(&calendar, &clock), "nobody said that it was served");
        assert!(due(&open(folder.path(), &clock), &clock));
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_silence_it() {
        let (folder, clock) = (tempfile::tempdir().unwrap(), january());
        let wrong = UnixMillis(clock.now().0 + 1_000_000_000_000);
        open(folder.path(), &clock).served(wrong).unwrap();
        let calendar = open(folder.path(), &clock);
        clock.advance(4 * HOUR);
        assert!(due(&calendar, &clock));
    }
}
