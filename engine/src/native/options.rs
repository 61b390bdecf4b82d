//! What the native engine may use.

use std::time::Duration;

use model::FolderFormat;
use model::kernels::{KvFormat, PAGE_TOKENS, TEAM_THREADS_MAX};
use model::quant::Precision;

use super::device::Device;
use super::inbox::QueueLimits;
use crate::api::EngineError;

/// The most threads that compute.
pub const THREADS_MAX: usize = TEAM_THREADS_MAX;

/// Limits of the native engine.
#[derive(Debug, Clone)]
pub struct NativeOptions {
    /// Threads that compute on the CPU, at most [`THREADS_MAX`]; 0 takes as many
    /// as there are CPUs.
    pub threads: usize,
    /// The most sequences in a batch.
    pub running_max: u32,
    /// The most sequences that wait.
    pub waiting_max: u32,
    /// The most of them that may be one tenant's; none is as many as may wait.
    pub waiting_per_tenant_max: Option<u32>,
    /// Tokens that the key-value cache holds, all sequences together.
    pub kv_tokens_max: u32,
    /// Bytes that it may take, where that is less than its tokens need.
    pub kv_bytes_max: Option<u64>,
    /// How they are kept there.
    pub kv_cache: KvFormat,
    /// Whether sequences with the same adapter version and the same beginning
    /// share its keys and values, at the same time and one after the other.
    pub prefix_cache: bool,
    /// The longest prompt and completion together, if less than the model's.
    pub context_length_max: Option<u32>,
    /// Bytes that resident adapters may hold.
    pub adapter_bytes_max: u64,
    /// How long a load waits for adapters in use to make room.
    pub adapter_wait_max: Duration,
    /// How long a request waits for its first place in the batch.
    pub queue_wait_max: Duration,
    /// The most prompt tokens of one step. Beside running streams there are
    /// fewer, as many as take about as long as the streams' own part of the step.
    pub prefill_chunk_tokens: u32,
    /// What computes.
    pub device: Device,
    /// How products are computed.
    pub precision: Precision,
    /// What the matrices of a published folder are quantized to.
    pub quantize: FolderFormat,
}

impl NativeOptions {
    /// Threads that compute.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if more are asked for than [`THREADS_MAX`].
    pub fn threads(&self) -> Result<usize, EngineError> {
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads {
            0 => Ok(cpus().min(THREADS_MAX)),
            threads if threads <= THREADS_MAX => Ok(threads),
            threads => Err(EngineError::Failed(format!(
                "{threads} threads are more than {THREADS_MAX}"
            ))),
        }
    }

    /// How many sequences may wait.
    pub(super) fn queue_limits(&self) -> QueueLimits {
        let per_tenant = self.waiting_per_tenant_max.unwrap_or(u32::MAX);
        QueueLimits {
            waiting_max: self.waiting_max,
            waiting_per_tenant_max: per_tenant.min(self.waiting_max),
        }
    }

    /// Pages of the key-value cache of `page_bytes` each, at least one.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if not one fits in `kv_bytes_max`.
    pub(super) fn kv_pages(&self, page_bytes: u64) -> Result<usize, EngineError> {
        let pages = (self.kv_tokens_max as usize / PAGE_TOKENS).max(1);
        let Some(bytes_max) = self.kv_bytes_max else {
            return Ok(pages);
        };
        match usize::try_from(bytes_max / page_bytes).unwrap_or(usize::MAX) {
            0 => Err(EngineError::Failed(format!(
                "kv_bytes_max is {bytes_max}, and one page of the key-value cache takes {page_bytes} bytes"
            ))),
            fitting => Ok(pages.min(fitting)),
        }
    }
}

impl Default for NativeOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            running_max: 16,
            waiting_max: 256,
            waiting_per_tenant_max: None,
            kv_tokens_max: 32 * 1024,
            kv_bytes_max: None,
            kv_cache: KvFormat::default(),
            prefix_cache: true,
            context_length_max: None,
            adapter_bytes_max: 512 << 20,
            adapter_wait_max: Duration::from_secs(30),
            queue_wait_max: Duration::from_secs(60),
            prefill_chunk_tokens: 128,
            device: Device::Cpu,
            precision: Precision::Int8,
            quantize: FolderFormat::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn more_threads_than_a_team_can_have_are_refused() {
        let options = |threads| NativeOptions {
            threads,
            ..NativeOptions::default()
        };
        assert!((1..=THREADS_MAX).contains(&options(0).threads().unwrap()));
        assert_eq!(options(THREADS_MAX).threads().unwrap(), THREADS_MAX);
        let error = options(THREADS_MAX + 1).threads().unwrap_err().to_string();
        assert!(error.contains("257 threads are more than 256"), "{error}");
    }
}
