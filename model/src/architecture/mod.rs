//! The model architectures that are known, one file each.
//!
//! An architecture says how its files are to be read; how it is computed is
//! the engine's and the trainer's knowledge.

mod llama;

use crate::ModelError;
use crate::gguf::Gguf;

/// Which pairs of a head's elements RoPE turns, in the order the file has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeOrder {
    /// Neighbours: elements `2i` and `2i + 1`. Files in this order have the rows
    /// of q and k permuted against the published weights.
    Interleaved,
    /// Halves: elements `i` and `i + head_dim / 2`, as published weights have them.
    Halves,
}

/// A model architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// LLaMA and what shares its form: SmolLM, Mistral and others.
    Llama,
}

/// How an architecture's files are read.
struct Spec {
    /// Its name in `general.architecture`, which its keys begin with.
    gguf_name: &'static str,
    rope_order: RopeOrder,
    /// Refuses files that use parts of the architecture that nobody here computes.
    check: fn(&Gguf) -> Result<(), ModelError>,
}

impl Architecture {
    const ALL: [Self; 1] = [Self::Llama];

    const fn spec(self) -> &'static Spec {
        match self {
            Self::Llama => &llama::SPEC,
        }
    }

    /// The architecture of a file.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`] with its name, or the error of
    /// the part that is not supported.
    pub fn of(gguf: &Gguf) -> Result<Self, ModelError> {
        let name = gguf.required("general.architecture", |value| value.as_str())?;
        let found = Self::ALL
            .into_iter()
            .find(|a| a.spec().gguf_name == name)
            .ok_or_else(|| ModelError::UnsupportedArchitecture(name.chars().take(64).collect()))?;
        (found.spec().check)(gguf)?;
        Ok(found)
    }

    /// Its name in GGUF files.
    #[must_use]
    pub const fn gguf_name(self) -> &'static str {
        self.spec().gguf_name
    }

    /// The order in which its files have the elements of a head.
    #[must_use]
    pub const fn rope_order(self) -> RopeOrder {
        self.spec().rope_order
    }
}
