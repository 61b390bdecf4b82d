//! The model architectures that are known, one file each, as data.
//!
//! All are decoders of one form: norm, attention, norm, gated feed-forward. A
//! description says which parts of it an architecture has and how its files
//! name them; what a part computes is the engine's and the trainer's knowledge.

mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;

use crate::ModelError;
use crate::gguf::Gguf;
use crate::projection::Projection;

/// Every known architecture.
static ALL: [&Architecture; 5] = [
    &llama::LLAMA,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &phi3::PHI3,
    &gemma3::GEMMA3,
];

/// Which pairs of a head's elements RoPE turns, in the order the file has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeOrder {
    /// Neighbours: elements `2i` and `2i + 1`. Files in this order have the rows
    /// of q and k permuted against the published weights.
    Interleaved,
    /// Halves: elements `i` and `i + head_dim / 2`, as published weights have them.
    Halves,
}

/// What the gate of the feed-forward block goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// GELU by its approximation with tanh.
    GeluTanh,
}

/// Which layers see a sliding window only, in files that give its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Window {
    /// Files with a window are refused.
    None,
    /// All layers.
    EveryLayer,
    /// All but every so many layers; those that see the window have a RoPE of
    /// their own.
    AllButEvery {
        /// One of so many layers sees all positions, if the file does not say.
        layers: usize,
        /// The base of the other layers' RoPE, if the file does not say.
        rope_theta: f32,
    },
}

/// Projections of the same input that are one tensor in files, one after the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    /// Its name below `blk.N` in GGUF files.
    pub gguf_name: &'static str,
    /// Its path below `model.layers.N` in PEFT files.
    pub peft_name: &'static str,
    /// The last part of [`Self::peft_name`].
    pub peft_leaf: &'static str,
    /// What it consists of, in order.
    pub parts: &'static [Projection],
}

/// A model architecture.
#[derive(Debug)]
pub struct Architecture {
    /// Its name in `general.architecture`, which its keys begin with.
    pub gguf_name: &'static str,
    /// What `config.json` calls it (`model_type`).
    pub model_types: &'static [&'static str],
    /// The order in which its files have the elements of a head.
    pub rope_order: RopeOrder,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether each query and key head is normed before RoPE.
    pub head_norms: bool,
    /// Whether attention's and the feed-forward block's outputs are normed.
    pub post_norms: bool,
    /// Projections that are one tensor in files.
    pub fused: &'static [Fused],
    /// The feed-forward block's activation.
    pub activation: Activation,
    /// Whether embeddings are multiplied with the root of their size.
    pub scales_embedding: bool,
    /// Sliding windows.
    pub window: Window,
    /// What the weights of published norms lack; GGUF files have it in them.
    pub published_norms_lack: f32,
    /// Values that `config.json` leaves out, as JSON.
    pub published_defaults: &'static str,
}

/// Names are unique.
impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.gguf_name == other.gguf_name
    }
}

impl Architecture {
    /// The architecture of a file.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedArchitecture`] with its name, or the error of a
    /// part that nobody here computes.
    pub fn of(gguf: &Gguf) -> Result<&'static Self, ModelError> {
        let name = gguf.required("general.architecture", |value| value.as_str())?;
        let found = Self::named(name)
            .ok_or_else(|| ModelError::UnsupportedArchitecture(name.chars().take(64).collect()))?;
        found.check(gguf)?;
        Ok(found)
    }

    /// The architecture with this GGUF name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|a| a.gguf_name == name)
    }

    /// The architecture with this `model_type` in `config.json`.
    #[must_use]
    pub fn of_model_type(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|a| a.model_types.contains(&name))
    }

    /// The names of all, for messages.
    pub(crate) fn names() -> String {
        ALL.map(|a| a.gguf_name).join(", ")
    }

    /// The tensor of which a projection is a part, if there is one.
    #[must_use]
    pub fn fused_with(&self, projection: Projection) -> Option<&'static Fused> {
        self.fused.iter().find(|f| f.parts.contains(&projection))
    }

    /// A projection's path below `model.layers.N` in PEFT files; several
    /// projections have one where they are one tensor.
    #[must_use]
    pub fn peft_name(&self, projection: Projection) -> &'static str {
        self.fused_with(projection)
            .map_or(projection.peft_name(), |fused| fused.peft_name)
    }

    /// The last part of [`Self::peft_name`].
    #[must_use]
    pub fn peft_leaf(&self, projection: Projection) -> &'static str {
        self.fused_with(projection)
            .map_or(projection.peft_leaf(), |fused| fused.peft_leaf)
    }

    /// Refuses metadata that changes the result in a way that is not computed.
    /// (Tensors that no part uses are refused where tensors are read.)
    fn check(&self, gguf: &Gguf) -> Result<(), ModelError> {
        let key = |name: &str| format!("{}.{name}", self.gguf_name);
        let refuse = |key: String, problem| Err(ModelError::Metadata { key, problem });
        let experts = key("expert_count");
        if gguf
            .optional(&experts, |value| value.as_u64())?
            .unwrap_or(0)
            > 0
        {
            return refuse(experts, "mixtures of experts are not supported");
        }
        for name in [
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "rope.scale_linear",
            "rope.scaling.attn_factor",
        ] {
            if gguf.value(&key(name)).is_some() {
                return refuse(key(name), "is not supported");
            }
        }
        let long = "rope_factors_long.weight";
        if gguf.has_tensor(long) {
            return refuse(long.to_owned(), "LongRoPE is not supported");
        }
        let scaling = key("rope.scaling.type");
        match gguf.optional(&scaling, |value| value.as_str())? {
            None | Some("none" | "linear") => Ok(()),
            Some("yarn") => refuse(scaling, "YaRN is not supported"),
            Some("longrope") => refuse(scaling, "LongRoPE is not supported"),
            Some(_) => refuse(scaling, "is neither none nor linear"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fused_parts_share_their_input() {
        for (i, a) in ALL.iter().enumerate() {
            assert_eq!(ALL.iter().position(|b| a == b), Some(i));
            assert!(std::ptr::eq(Architecture::named(a.gguf_name).unwrap(), *a));
            let defaults: serde_json::Value = serde_json::from_str(a.published_defaults).unwrap();
            assert!(defaults.is_object());
            for name in a.model_types {
                assert!(std::ptr::eq(Architecture::of_model_type(name).unwrap(), *a));
            }
            for fused in a.fused {
                assert!(fused.peft_name.ends_with(fused.peft_leaf));
                for part in fused.parts {
                    assert_eq!(a.fused_with(*part), Some(fused));
                }
            }
        }
        assert!(Architecture::named("mamba").is_none());
    }
}
