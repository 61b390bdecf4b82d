//! What the native engine may use.

use model::FolderFormat;
use model::quant::Precision;

/// Limits of the native engine.
#[derive(Debug, Clone)]
pub struct NativeOptions {
    /// Threads that compute; 0 takes as many as there are CPUs.
    pub threads: usize,
    /// The most sequences in a batch.
    pub running_max: u32,
    /// The most sequences that wait.
    pub waiting_max: u32,
    /// Tokens that the key-value cache holds, all sequences together.
    pub kv_tokens_max: u32,
    /// The longest prompt and completion together, if less than the model's.
    pub context_length_max: Option<u32>,
    /// Bytes that resident adapters may hold.
    pub adapter_bytes_max: u64,
    /// The most prompt tokens of one step: what a running stream waits for.
    pub prefill_chunk_tokens: u32,
    /// How products are computed.
    pub precision: Precision,
    /// What the matrices of a published folder are quantized to.
    pub quantize: FolderFormat,
}

impl Default for NativeOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            running_max: 16,
            waiting_max: 256,
            kv_tokens_max: 32 * 1024,
            context_length_max: None,
            adapter_bytes_max: 512 << 20,
            prefill_chunk_tokens: 128,
            precision: Precision::Int8,
            quantize: FolderFormat::default(),
        }
    }
}
