//! How far a run is, as it is told live: in the terminal, in the status file and
//! in events.

use serde::{Deserialize, Serialize};

use crate::memory::kib_of;
use crate::train::StepMetrics;

/// Where a run is after a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: usize,
    /// Optimizer steps of the stage.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: f64,
    /// Its reward margin.
    pub margin: f64,
    /// Its reward accuracy.
    pub accuracy: f64,
    /// Unpadded policy tokens a second since training began.
    pub tokens_per_second: f64,
    /// Seconds that training will still take.
    pub seconds_left: f64,
    /// What the process has resident; none where the system does not say.
    pub memory_bytes: Option<u64>,
    /// The most that it had.
    pub memory_peak_bytes: Option<u64>,
}

impl Progress {
    /// After the step of these metrics, now.
    #[must_use]
    pub fn of(step: &StepMetrics) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let left = step.steps.saturating_sub(step.step) as f64;
        Self {
            step: step.step,
            steps: step.steps,
            loss: step.loss,
            margin: step.rewards_margins,
            accuracy: step.rewards_accuracies,
            tokens_per_second: step.num_tokens as f64 / step.seconds.max(1e-3),
            seconds_left: step.seconds / step.step.max(1) as f64 * left,
            memory_bytes: kib_of(&status, "VmRSS:"),
            memory_peak_bytes: kib_of(&status, "VmHWM:"),
        }
    }

    /// One line for the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "step {}/{} loss {:.4} margin {:.3} accuracy {:.2} {:.0} tok/s, {:.0} s to go",
            self.step,
            self.steps,
            self.loss,
            self.margin,
            self.accuracy,
            self.tokens_per_second,
            self.seconds_left
        );
        if let (Some(now), Some(peak)) = (self.memory_bytes, self.memory_peak_bytes) {
            text.push_str(&format!(", {} MiB (peak {})", now >> 20, peak >> 20));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_and_memory_are_told() {
        let step = StepMetrics {
            step: 3,
            steps: 12,
            loss: 0.5,
            num_tokens: 600,
            seconds: 6.0,
            ..StepMetrics::default()
        };
        let progress = Progress::of(&step);
        assert!((progress.seconds_left - 18.0).abs() < 1e-9);
        assert!((progress.tokens_per_second - 100.0).abs() < 1e-9);
        let (now, peak) = (progress.memory_bytes, progress.memory_peak_bytes);
        assert!(now > Some(1 << 20) && peak >= now, "{progress:?}");
        let text = progress.text();
        assert!(
            text.contains("step 3/12")
                && text.contains("100 tok/s, 18 s to go")
                && text.contains("MiB (peak "),
            "{text}"
        );
    }
}
