//! Request and token limits of one key: two leaky buckets, each as large as a
//! minute's allowance. Tokens are charged when a request is admitted: the
//! prompt and everything that the completions may cost.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

const MINUTE: Duration = Duration::from_secs(60);

/// What a caller may still send.
#[derive(Debug)]
pub(crate) struct Budget {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    size: NonZeroU32,
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
}

/// The state of one bucket after a request, for its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// The bucket's size.
    pub(crate) limit: u32,
    /// What is left in it.
    pub(crate) remaining: u32,
    /// Until it is full again.
    pub(crate) reset: Duration,
}

/// The levels after a request was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Charge {
    pub(crate) requests: Option<Level>,
    pub(crate) tokens: Option<Level>,
}

/// Why a request was not charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// It could never be: it is larger than the whole bucket.
    LargerThanBucket { tokens: u32, bucket: u32 },
    /// Not now.
    TryLater {
        what: &'static str,
        after: Duration,
        levels: Charge,
    },
}

impl Bucket {
    fn new(size: NonZeroU32) -> Self {
        let limiter = RateLimiter::direct(Quota::per_minute(size));
        Self {
            size,
            limiter: limiter.with_middleware::<StateInformationMiddleware>(),
        }
    }

    fn level(&self, remaining: u32) -> Level {
        let missing = self.size.get().saturating_sub(remaining);
        let reset = MINUTE.mul_f64(f64::from(missing) / f64::from(self.size.get()));
        Level {
            limit: self.size.get(),
            remaining,
            reset,
        }
    }

    /// Takes `n`, or says after which time they could be taken.
    fn take(&self, n: NonZeroU32) -> Result<Level, (Duration, Level)> {
        match self.limiter.check_n(n) {
            Ok(Ok(snapshot)) => Ok(self.level(snapshot.remaining_burst_capacity())),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.limiter.clock().now());
                let missing =
                    (wait.as_secs_f64() / MINUTE.as_secs_f64() * f64::from(self.size.get())).ceil();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a float cast saturates, and the value is a count of tokens"
                )]
                let remaining = n.get().saturating_sub(missing as u32);
                Err((wait, self.level(remaining)))
            }
            // Callers compare with the size first.
            Err(_) => Err((MINUTE, self.level(0))),
        }
    }
}

impl Budget {
    pub(crate) fn new(requests: Option<NonZeroU32>, tokens: Option<NonZeroU32>) -> Self {
        Self {
            requests: requests.map(Bucket::new),
            tokens: tokens.map(Bucket::new),
        }
    }

    /// Charges one request of `tokens`. A request that the token bucket could
    /// never hold is charged nothing.
    pub(crate) fn charge(&self, tokens: u32) -> Result<Charge, Exceeded> {
        if let Some(bucket) = self
            .tokens
            .as_ref()
            .filter(|bucket| tokens > bucket.size.get())
        {
            return Err(Exceeded::LargerThanBucket {
                tokens,
                bucket: bucket.size.get(),
            });
        }
        let mut levels = Charge::default();
        if let Some(bucket) = &self.requests {
            match bucket.take(NonZeroU32::MIN) {
                Ok(level) => levels.requests = Some(level),
                Err((after, level)) => {
                    levels.requests = Some(level);
                    return Err(Exceeded::TryLater {
                        what: "requests",
                        after,
                        levels,
                    });
                }
            }
        }
        if let (Some(bucket), Some(tokens)) = (&self.tokens, NonZeroU32::new(tokens)) {
            match bucket.take(tokens) {
                Ok(level) => levels.tokens = Some(level),
                Err((after, level)) => {
                    levels.tokens = Some(level);
                    return Err(Exceeded::TryLater {
                        what: "tokens",
                        after,
                        levels,
                    });
                }
            }
        }
        Ok(levels)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn budget(requests: u32, tokens: u32) -> Budget {
        Budget::new(NonZeroU32::new(requests), NonZeroU32::new(tokens))
    }

    #[test]
    fn a_request_that_never_fits_is_told_so_and_costs_nothing() {
        let budget = budget(10, 100);
        let error = budget.charge(101).unwrap_err();
        assert_eq!(
            error,
            Exceeded::LargerThanBucket {
                tokens: 101,
                bucket: 100
            }
        );
        let charge = budget.charge(100).unwrap();
        assert_eq!(charge.requests.unwrap().remaining, 9);
        assert_eq!(charge.tokens.unwrap().remaining, 0);
    }

    #[test]
    fn a_request_that_fits_later_is_told_when() {
        let budget = budget(10, 60);
        budget.charge(50).unwrap();
        let Err(Exceeded::TryLater {
            what,
            after,
            levels,
        }) = budget.charge(20)
        else {
            panic!("was charged")
        };
        assert_eq!(what, "tokens");
        assert!((9.0..=10.1).contains(&after.as_secs_f64()), "{after:?}");
        let level = levels.tokens.unwrap();
        assert_eq!((level.limit, level.remaining), (60, 10));
        assert!(
            (49.0..=51.0).contains(&level.reset.as_secs_f64()),
            "{level:?}"
        );
    }

    #[test]
    fn requests_are_limited_by_themselves() {
        let budget = budget(2, 1000);
        budget.charge(1).unwrap();
        budget.charge(1).unwrap();
        let Err(Exceeded::TryLater { what, .. }) = budget.charge(1) else {
            panic!("was charged")
        };
        assert_eq!(what, "requests");
        let unlimited = Budget::new(None, None);
        assert_eq!(unlimited.charge(u32::MAX).unwrap(), Charge::default());
    }
}
