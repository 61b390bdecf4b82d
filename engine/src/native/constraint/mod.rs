//! Constrained decoding: grammars compiled for the model's tokens, and which
//! tokens each sequence may choose next.
//!
//! A grammar is compiled once a request, on a thread of its own with limits on
//! size, time and number; the device thread only asks for masks. The parser is
//! `llguidance`'s and stays inside of this folder.

mod compile;
mod environment;
mod state;

pub use compile::Grammars;
pub use state::GrammarState;
