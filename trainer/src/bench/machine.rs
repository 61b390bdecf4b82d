//! What this machine can do, and what the process took of it.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::memory::peak;
use crate::ops::gemm::{Extent, Threads, multiply, plain, transposed};
use crate::tensors::Place;

/// How often a device is asked how much of its memory is taken.
const LOOKED_EVERY: Duration = Duration::from_millis(1);

/// How long products are tried.
const TRIED_SECONDS: f64 = 1.0;
/// Their shape: large enough that packing and threads do not matter.
const EXTENT: Extent = Extent {
    m: 2048,
    n: 1536,
    k: 576,
};

/// The most that this process had resident; 0 where the system does not say.
pub(super) fn peak_rss_bytes() -> u64 {
    peak().unwrap_or(0)
}

/// Looks again and again how much of a device's own memory is taken.
pub(super) struct DeviceWatch {
    stop: Sender<()>,
    looking: JoinHandle<Option<u64>>,
}

impl DeviceWatch {
    pub(super) fn start(place: &Place) -> Self {
        let (stop, stopped) = channel::<()>();
        let place = place.clone();
        let looking = std::thread::spawn(move || {
            let mut most = None;
            while let Some(taken) = place.device_taken_bytes() {
                most = most.max(Some(taken));
                if stopped.recv_timeout(LOOKED_EVERY) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            most
        });
        Self { stop, looking }
    }

    /// The most that was seen, by whoever it was taken; None where a device has no
    /// memory of its own.
    pub(super) fn most(self) -> Option<u64> {
        drop(self.stop);
        self.looking.join().ok().flatten()
    }
}

/// The fastest plain f32 product on rayon's current pool, in 10⁹ operations a
/// second: what a training step cannot pass.
pub(super) fn gemm_gflops_max() -> f64 {
    let Extent { m, n, k } = EXTENT;
    let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
    let mut out = vec![0.0; m * n];
    let gflop = 2e-9 * (m * n * k) as f64;
    let mut fastest = 0.0f64;
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < TRIED_SECONDS {
        let start = Instant::now();
        let (a, b) = (plain(&a), transposed(&b));
        multiply(EXTENT, a, b, (0.0, 1.0), &mut out, Threads::Pool);
        fastest = fastest.max(gflop / start.elapsed().as_secs_f64());
    }
    fastest
}
