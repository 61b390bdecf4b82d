//! Pauses while others want the CPUs: between two packs training looks at how much
//! of the machine other programs used since, and waits while that is much.
//!
//! Priority alone does not suffice: caches and memory are shared whatever the
//! scheduler does. What counts is everything that runs at a higher priority, on
//! whatever engine, so nothing has to tell the trainer. A pause has an end, so a
//! server that is never idle makes training slow and does not stop it. Knows no
//! training, and changes no bit of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a pause looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What was used in less time than this is not told apart from rounding: the
/// kernel counts in hundredths of a second.
const TICKS_MIN: u64 = 10;
/// The longest pause that may be asked for.
const SECONDS_MAX: f64 = 3600.0;

/// When to give way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GiveWayConfig {
    /// The share of all CPUs that others may use before training pauses, from 0 to 1.
    pub cpu_share: f64,
    /// The longest pause before each pack, in seconds; 0 never pauses.
    pub seconds_max: f64,
}

impl Default for GiveWayConfig {
    fn default() -> Self {
        Self {
            cpu_share: 0.5,
            seconds_max: 5.0,
        }
    }
}

impl GiveWayConfig {
    /// What makes no sense in it.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self {
            cpu_share,
            seconds_max,
        } = self;
        if !(0.0..=1.0).contains(cpu_share) {
            return Some(format!("cpu_share {cpu_share} is not within 0 and 1"));
        }
        let allowed = (0.0..=SECONDS_MAX).contains(seconds_max);
        (!allowed).then(|| format!("seconds_max {seconds_max} is not within 0 and {SECONDS_MAX}"))
    }
}

/// Ticks of all CPUs since the machine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    /// In all.
    all: u64,
    /// Of programs that are not behind others, without this one.
    others: u64,
}

impl Ticks {
    /// The share that others had since `before`; none if that is too short ago.
    fn share_since(self, before: Self) -> Option<f64> {
        let all = self.all.saturating_sub(before.all);
        let others = self.others.saturating_sub(before.others);
        (all >= TICKS_MIN).then(|| others as f64 / all as f64)
    }
}

/// Looks at the machine and waits.
pub(crate) struct GiveWay {
    config: GiveWayConfig,
    machine: Box<dyn Machine>,
    before: Mutex<Option<Ticks>>,
}

/// Where time comes from and goes to.
trait Machine: Send + Sync {
    /// None where the system does not say.
    fn ticks(&self) -> Option<Ticks>;
    fn sleep(&self, time: Duration);
}

impl GiveWay {
    /// One that looks at this machine.
    pub(crate) fn new(config: GiveWayConfig) -> Self {
        Self::on(config, Box::new(Linux))
    }

    fn on(config: GiveWayConfig, machine: Box<dyn Machine>) -> Self {
        Self {
            config,
            machine,
            before: Mutex::new(None),
        }
    }

    /// Waits while others use more than their share, and says how long it did.
    pub(crate) fn wait(&self) -> Duration {
        let longest = Duration::from_secs_f64(self.config.seconds_max);
        let mut waited = Duration::ZERO;
        if longest.is_zero() {
            return waited;
        }
        while waited < longest && self.others_want_more() {
            if waited.is_zero() {
                tracing::debug!("training pauses: others use the CPUs");
            }
            let time = LOOK_EVERY.min(longest - waited);
            self.machine.sleep(time);
            waited += time;
        }
        waited
    }

    /// Whether others used more than their share since the last look.
    fn others_want_more(&self) -> bool {
        let Some(now) = self.machine.ticks() else {
            return false;
        };
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let share = before.and_then(|before| now.share_since(before));
        if before.is_none() || share.is_some() {
            *before = Some(now);
        }
        share.is_some_and(|share| share > self.config.cpu_share)
    }
}

/// The kernel's own accounts.
struct Linux;

impl Machine for Linux {
    fn ticks(&self) -> Option<Ticks> {
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        ticks_of(&machine, &own)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Reads proc_stat(5) and proc_pid_stat(5).
fn ticks_of(machine: &str, own: &str) -> Option<Ticks> {
    let line = machine.lines().find(|line| line.starts_with("cpu "))?;
    let cpu: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|n| n.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guests are within the first two
    let cpu: [u64; 8] = cpu.get(..8)?.try_into().ok()?;
    let [user, _, system, _, _, irq, softirq, _] = cpu;
    // the name, in parentheses, may hold anything; utime is field 14
    let own: Vec<i64> = own[own.rfind(')')? + 1..]
        .split_whitespace()
        .skip(11)
        .take(6)
        .map_while(|n| n.parse().ok())
        .collect();
    let [user_own, system_own, _, _, _, nice_own] = <[i64; 6]>::try_from(own).ok()?;
    // time in user mode of what is behind others is counted apart
    let user_own = if nice_own > 0 { 0 } else { user_own };
    let own = u64::try_from(user_own + system_own).ok()?;
    Some(Ticks {
        all: cpu.iter().sum(),
        others: (user + system + irq + softirq).saturating_sub(own),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Two CPUs that others use in part until a time; time passes by sleeping.
    #[derive(Default)]
    struct Simulated {
        now: Mutex<Duration>,
        busy_until: Duration,
        share: f64,
    }

    impl Machine for Arc<Simulated> {
        fn ticks(&self) -> Option<Ticks> {
            let ticks = |time: Duration| 200.0 * time.as_secs_f64();
            let now = *self.now.lock().unwrap();
            Some(Ticks {
                all: ticks(now) as u64,
                others: (self.share * ticks(now.min(self.busy_until))) as u64,
            })
        }

        fn sleep(&self, time: Duration) {
            *self.now.lock().unwrap() += time;
        }
    }

    fn waits(share: f64, busy_seconds: f64, packs: usize) -> Vec<f64> {
        let machine = Arc::new(Simulated {
            busy_until: Duration::from_secs_f64(busy_seconds),
            share,
            ..Simulated::default()
        });
        let config = GiveWayConfig {
            cpu_share: 0.5,
            seconds_max: 3.0,
        };
        let give_way = GiveWay::on(config, Box::new(Arc::clone(&machine)));
        let pack = || {
            let waited = give_way.wait().as_secs_f64();
            machine.sleep(Duration::from_secs(1));
            waited
        };
        (0..packs).map(|_| pack()).collect()
    }

    #[test]
    fn training_pauses_while_others_use_more_and_no_longer_than_allowed() {
        assert_eq!(waits(0.4, 100.0, 4), [0.0; 4]);
        // the first look has nothing to compare with; then each pack waits its time
        let always = waits(0.9, 100.0, 3);
        assert_eq!(always[0], 0.0);
        assert!(always[1..].iter().all(|&s| (2.9..3.1).contains(&s)));
        // it goes on soon after the others have ended
        let ends = waits(0.9, 2.0, 4);
        assert!((0.8..1.5).contains(&ends[1]), "{ends:?}");
        assert_eq!(ends[2..], [0.0; 2]);
    }

    #[test]
    fn the_kernel_s_accounts_are_read() {
        let machine = "cpu  100 50 30 700 20 5 6 7 0 0\ncpu0 1 2 3 4 5 6 7 8\n";
        let own = |nice| format!("12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 40 10 0 0 20 {nice} 3 0 99");
        let of = |nice| ticks_of(machine, &own(nice)).unwrap();
        let all = 100 + 50 + 30 + 700 + 20 + 5 + 6 + 7;
        let others = 100 + 30 + 5 + 6;
        assert_eq!(
            of(0),
            Ticks {
                all,
                others: others - 50
            }
        );
        assert_eq!(
            of(19),
            Ticks {
                all,
                others: others - 10
            }
        );
        assert_eq!(ticks_of("cpu  1 2\n", &own(0)), None);
        assert_eq!(ticks_of(machine, "12 (a"), None);
        let real = Linux.ticks().unwrap();
        assert!(real.all > real.others);
    }

    #[test]
    fn nonsense_is_named() {
        let problem = |cpu_share, seconds_max| {
            GiveWayConfig {
                cpu_share,
                seconds_max,
            }
            .problem()
        };
        assert_eq!(problem(0.5, 0.0), None);
        assert!(problem(1.5, 1.0).unwrap().contains("cpu_share"));
        assert!(problem(0.5, f64::NAN).unwrap().contains("seconds_max"));
        assert!(problem(0.5, -1.0).is_some() && problem(0.5, 1e9).is_some());
    }
}
