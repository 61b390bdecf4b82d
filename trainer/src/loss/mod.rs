//! The losses as numbers: values and derivatives in f64, no tensors.
//!
//! The derivatives in each sequence's log-probability are what the backward
//! pass starts from, so the formulas can be read, and checked, here alone.

mod kto;
mod preference;

pub use kto::{RatedTerm, kto};
pub use preference::{PairLogProbs, PairTerm, PreferenceLoss};

/// log(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        x.exp() / (1.0 + x.exp())
    }
}

/// σ′(x) = σ(x)σ(−x).
fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}
