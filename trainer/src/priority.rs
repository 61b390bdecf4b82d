//! The process's place behind serving on the same CPUs.

#[cfg(target_os = "linux")]
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

/// The lowest niceness: a running server leaves such a process next to nothing.
const NICE_MAX: u8 = 19;

/// What Linux calls the priority of all of a session's processes together,
/// where it groups them so: there, niceness counts within the session only.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Puts the calling thread, and threads that it starts from now on, behind others:
/// by so much niceness, or unless given by the most there is and by a policy that
/// runs them only where nobody else wants to run, and lets everybody interrupt them.
/// What the system does not grant is told and no reason to stop.
pub fn behind_serving(nice: Option<u8>) {
    if nice.is_none() {
        only_when_idle();
    }
    let nice = nice.unwrap_or(NICE_MAX).min(NICE_MAX);
    if let Err(error) = rustix::process::nice(i32::from(nice)) {
        tracing::warn!(%error, "the niceness was not changed");
    }
    // Only a session that is its own, as a service's or a container's is: a
    // shell's would stay behind when the trainer has ended.
    let own_session = rustix::process::getsid(None) == Ok(rustix::process::getpid());
    if own_session && let Err(error) = std::fs::write(AUTOGROUP, nice.to_string()) {
        tracing::debug!(%error, "the session's niceness was not changed");
    }
}

/// `SCHED_IDLE` of sched(7).
#[cfg(target_os = "linux")]
fn only_when_idle() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let (thread, priority) = (thread_native_id(), ThreadPriority::Min);
    if let Err(error) = set_thread_priority_and_policy(thread, priority, idle) {
        // It also sets the niceness, which may fail alone.
        tracing::debug!(?error, "setting the scheduling policy");
    }
    if thread_schedule_policy() != Ok(idle) {
        tracing::warn!("the scheduling policy was not changed");
    }
}

/// Elsewhere there is niceness alone.
#[cfg(not(target_os = "linux"))]
fn only_when_idle() {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_gets_behind() {
        let nice = || rustix::process::nice(0).unwrap();
        let before = nice();
        // a thread of its own, since nothing brings one back
        let by = |by| std::thread::spawn(move || (behind_serving(by), nice()).1);
        let after = by(Some(1)).join().unwrap();
        assert_eq!(after, (before + 1).min(i32::from(NICE_MAX)));
        assert_eq!(by(None).join().unwrap(), i32::from(NICE_MAX));
        assert_eq!(nice(), before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn unless_told_otherwise_it_runs_only_when_nobody_else_would() {
        let policy = |nice| {
            let there = move || {
                behind_serving(nice);
                // what the kernel says of a thread that this one starts
                let started = std::thread::spawn(|| {
                    std::fs::read_to_string("/proc/thread-self/sched").unwrap()
                });
                started.join().unwrap()
            };
            let sched = std::thread::spawn(there).join().unwrap();
            let line = sched.lines().find(|line| line.starts_with("policy"));
            line.unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!(
            (policy(None).as_str(), policy(Some(1)).as_str()),
            ("5", "0")
        );
    }
}
