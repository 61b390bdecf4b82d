//! Why an adapter is refused.

/// Why an adapter is refused. Each message names the part that is at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// The configuration is no JSON object of the expected form.
    #[error("adapter_config.json cannot be read: {0}")]
    Config(String),
    /// A value of the configuration is out of range or contradicts another.
    #[error("adapter_config.json: {key} {problem}")]
    ConfigValue {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The adapter uses a part of PEFT that is not computed here.
    #[error("adapter_config.json: {feature} is not supported")]
    Unsupported {
        /// The key, and the value where it matters.
        feature: String,
    },
    /// A rank of zero or above the limit.
    #[error("rank {found} is not between 1 and {max}")]
    Rank {
        /// The rank found.
        found: u64,
        /// The highest accepted.
        max: usize,
    },
    /// A file is larger than is accepted.
    #[error("{what} is {found}, above the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The largest accepted.
        max: usize,
    },
    /// The weights file is no safetensors file.
    #[error("adapter_model.safetensors cannot be read: {0}")]
    Safetensors(String),
    /// A tensor belongs to no module that the configuration targets in this model.
    #[error("tensor {0:?} belongs to no targeted module of this model")]
    TensorUnexpected(String),
    /// A targeted module has no such tensor.
    #[error("tensor {0:?} is missing")]
    TensorMissing(String),
    /// A tensor does not fit the module and the rank.
    #[error("tensor {name:?} has shape {found:?}, not {expected:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// What the module and the rank ask for.
        expected: [usize; 2],
        /// What the file has.
        found: Vec<usize>,
    },
    /// A tensor is of a type other than f32, f16 and bf16.
    #[error("tensor {name:?} is of type {found}, not F32, F16 or BF16")]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor has an infinity or something that is no number.
    #[error("tensor {0:?} has a value that is not finite")]
    NotFinite(String),
    /// Projections that are one module in the published model have matrices A of
    /// their own, so that no PEFT file can hold them.
    #[error("the parts of {0:?} differ in A")]
    PartsDiffer(String),
    /// The adapter targets nothing that this model has.
    #[error("no module of this model matches the adapter's target_modules")]
    NoModule,
}
