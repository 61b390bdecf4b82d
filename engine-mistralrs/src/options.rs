//! What the engine may use.

use std::path::PathBuf;
use std::time::Duration;

/// Limits of the engine.
#[derive(Debug, Clone)]
pub struct MistralOptions {
    /// The most sequences that run at once, in all instances together.
    pub running_max: u32,
    /// The most sequences that wait.
    pub waiting_max: u32,
    /// The most of them that may be one tenant's; all of them without.
    pub waiting_per_tenant_max: Option<u32>,
    /// The longest prompt and completion together, if less than the model's.
    pub context_length_max: Option<u32>,
    /// Bytes that adapter versions may hold; without it, what two versions take
    /// that change every matrix.
    pub adapter_bytes_max: Option<u64>,
    /// How long a load waits for adapters in use to make room.
    pub adapter_wait_max: Duration,
    /// How long a request waits for its first place in the batch.
    pub queue_wait_max: Duration,
    /// Whether each instance keeps the keys and values of its last
    /// [`PREFIX_SEQUENCES_MAX`] sequences for the next with the same beginning.
    pub prefix_cache: bool,
    /// What the matrices of a published folder are quantized to as they are
    /// loaded, by mistralrs' names (`q4k`, `q8_0`); none keeps them as they are.
    pub isq: Option<String>,
    /// A folder for files on their way into the crate; the system's own without.
    pub scratch: Option<PathBuf>,
}

impl MistralOptions {
    /// A new folder for files on their way, which goes with its handle.
    pub(crate) fn scratch(&self) -> std::io::Result<tempfile::TempDir> {
        match &self.scratch {
            Some(scratch) => {
                std::fs::create_dir_all(scratch)?;
                tempfile::tempdir_in(scratch)
            }
            None => tempfile::tempdir(),
        }
    }
}

/// Sequences in the prefix cache of one instance.
pub const PREFIX_SEQUENCES_MAX: usize = 16;

impl Default for MistralOptions {
    fn default() -> Self {
        Self {
            running_max: 16,
            waiting_max: 256,
            waiting_per_tenant_max: None,
            context_length_max: None,
            adapter_bytes_max: None,
            adapter_wait_max: Duration::from_secs(30),
            queue_wait_max: Duration::from_secs(60),
            prefix_cache: false,
            isq: None,
            scratch: None,
        }
    }
}
