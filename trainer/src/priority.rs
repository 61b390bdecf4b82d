//! The process's place behind serving on the same CPUs.

/// The lowest niceness: a running server leaves such a process next to nothing. The
/// policy below it, `SCHED_IDLE`, leaves it nothing at all beside a server whose
/// threads wait for each other awake, and then nobody renews the lease.
const NICE_MAX: u8 = 19;

/// What Linux calls the priority of all of a session's processes together,
/// where it groups them so: there, niceness counts within the session only.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// Adds to the process's niceness, and to its group's; unless given, the most there
/// is. What the system does not grant is told and no reason to stop.
pub fn behind_serving(nice: Option<u8>) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_process_gets_behind() {
        // the test's process stays so, which does nobody harm
        let before = rustix::process::nice(0).unwrap();
        behind_serving(Some(1));
        let after = rustix::process::nice(0).unwrap();
        assert_eq!(after, (before + 1).min(i32::from(NICE_MAX)));
    }
}
