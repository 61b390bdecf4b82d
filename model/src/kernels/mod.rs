//! CPU kernels, chosen at run time for the CPU they run on.
//!
//! The only unsafe code of the workspace's numerics is here: every function
//! that other modules see is safe and checks its lengths. Work is split over
//! the [`Team`] that the thread leads, or over rayon's current pool. Each result
//! is computed in one fixed order, so it does not depend on the batch, the tile or
//! the number of threads; products of 8-bit integers, and what is computed in lanes of
//! a fixed width, not on the instruction set either. Knows nothing of models.

mod activations;
mod ahead;
mod attention;
mod cpu;
mod factor;
mod factor_packed;
mod factor_units;
mod freed;
mod gemm;
mod int8;
#[cfg(target_arch = "x86_64")]
mod int8_avx2;
#[cfg(target_arch = "x86_64")]
mod int8_avx512;
#[cfg(target_arch = "aarch64")]
mod int8_neon;
mod int8_scalar;
mod kv_quant;
mod limits;
mod low_rank;
mod low_rank_pair;
mod math;
mod memory;
mod multiversion;
mod panels;
mod parallel;
mod project;
mod team;
mod wide;

pub use attention::{KvFormat, KvLayout, KvPage, PAGE_TOKENS, Query, attend};
pub use cpu::Level;
pub use factor::{DoesNotFit, FactorFormat};
pub use freed::give_back_freed_memory;
pub use limits::MachineLimits;
pub use low_rank::{LowRankTerm, Terms, row_chunks};
pub use low_rank_pair::{LowRankPair, PairShape};
pub use math::{add, gelu_mul, log_sum_exp, rms_norm, silu_mul, softmax};
pub use memory::Arena;
pub use parallel::{for_each_mut, for_rows};
pub use team::{TEAM_THREADS_MAX, Team};

pub(crate) use activations::Passes;
pub(crate) use math::all_finite;
pub(crate) use memory::{Slice, Span};
pub(crate) use multiversion::dequantize;
pub(crate) use panels::matmul_transposed_f32;
pub(crate) use project::project;
