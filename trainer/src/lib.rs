//! Datasets from feedback, DPO on the served quantized weights, evaluation,
//! publication.
//!
//! Knows no HTTP and serves no request. [`train`] knows tokens and tensors
//! only; [`pipeline`] is the one place where stores, training, evaluation and
//! publication meet, and reads top to bottom.

mod error;
mod forward;
mod loss;
mod ops;
mod pack;
mod parameters;
pub mod train;

pub use error::TrainerError;
pub use forward::FrozenModel;
pub use loss::{PairLogProbs, PairTerm, dpo_sigmoid};
pub use ops::head::Target;
pub use pack::Sequence;
pub use parameters::Parameters;
