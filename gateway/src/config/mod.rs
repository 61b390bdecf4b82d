//! What a gateway is started with, after flags, environment, file and defaults
//! were put together.
//!
//! Knows nothing of HTTP: it only reads, checks and names. Secrets are kept as
//! digests where a comparison is all that is needed.

mod file;
mod keys;
mod secret;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use engine::native::THREADS_MAX;
use ids::ModelName;
use store::{Durability, RedisCredentials};

pub use file::Overrides;
pub use keys::{ApiKey, KeyDigest};
pub use secret::AdminKey;

/// The address that is listened on by default.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
/// The public model name that exists without any configuration.
pub const MODEL_NAME_DEFAULT: &str = "flywheel";
/// The longest request body by default.
pub const BODY_BYTES_MAX_DEFAULT: usize = 4 << 20;
/// How long running answers may take to end at a shutdown, by default.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(30);

/// Everything that a gateway is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The GGUF file or published folder.
    pub model: PathBuf,
    /// The folder that holds the embedded store, the adapter store and the
    /// generated admin key.
    pub data: PathBuf,
    /// `embedded` or `redis[s]://HOST:PORT/DB`.
    pub store: String,
    /// The folder beneath which adapters may be imported; none forbids it.
    pub adapter_root: Option<PathBuf>,
    /// The least that an acknowledged write must promise. Less than fsynced
    /// opens the embedded store with `synchronous = OFF`.
    pub durability: Durability,
    /// Who this process is to Redis.
    pub redis: RedisCredentials,
    /// The public model names.
    pub models: Vec<ModelName>,
    /// Who may send requests; empty lets everyone on this machine.
    pub keys: Vec<ApiKey>,
    /// The key of the admin routes, where the environment gave one.
    pub admin_key: Option<AdminKey>,
    /// How the engine is sized.
    pub engine: EngineConfig,
    /// The longest request body.
    pub body_bytes_max: usize,
    /// How long running answers may take to end at a shutdown.
    pub drain: Duration,
    /// Whether answers say their rollout and arm in headers.
    pub show_arm: bool,
}

/// What computes the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The engine of this workspace.
    #[default]
    Native,
    /// The crate `mistralrs`, in builds that have it.
    Mistralrs,
}

impl EngineKind {
    /// Its name in configuration files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mistralrs => "mistralrs",
        }
    }
}

/// Which engine, and how it is sized; what is absent is the engine's own default.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// What computes the answers.
    #[serde(default)]
    pub engine: EngineKind,
    /// Where: `cpu`, or `cuda:0` where the feature `cuda` is built in.
    pub device: Option<engine::native::Device>,
    /// Threads that compute on the CPU, at most [`engine::native::THREADS_MAX`].
    pub threads: Option<usize>,
    /// The most sequences in a batch.
    pub running_max: Option<u32>,
    /// The most sequences that may wait.
    pub waiting_max: Option<u32>,
    /// The most of them with one API key; with several keys a half by default,
    /// else as many as may wait.
    pub waiting_per_tenant_max: Option<u32>,
    /// The most tokens in the key-value cache; without it and with
    /// `kv_bytes_max` only the bytes count.
    pub kv_tokens_max: Option<u32>,
    /// The most bytes of the key-value cache.
    pub kv_bytes_max: Option<u64>,
    /// How keys and values are kept: `f32` or `q8_0`.
    pub kv_cache: Option<engine::native::KvFormat>,
    /// Whether requests share the keys and values of a common beginning.
    pub prefix_cache: Option<bool>,
    /// A shorter context than the model's own.
    pub context_length_max: Option<u32>,
    /// The most bytes of resident adapters.
    pub adapter_bytes_max: Option<u64>,
    /// How long a request waits for adapters in use to make room for its own.
    pub adapter_wait_seconds: Option<u64>,
    /// How long a request waits for its first place in the batch.
    pub queue_wait_seconds: Option<u64>,
    /// What the matrices of a published folder are quantized to: `q8_0` or `q4_k`.
    pub quantize: Option<engine::native::FolderFormat>,
    /// What mistralrs quantizes the matrices of a published folder to.
    pub isq: Option<String>,
}

impl EngineConfig {
    /// The most sequences of one tenant that may wait, out of `waiting_max`: one
    /// key cannot fill the queue where there are others.
    #[must_use]
    pub fn waiting_per_tenant_max(&self, waiting_max: u32, keys: usize) -> Option<u32> {
        let half = (keys > 1).then(|| waiting_max.div_ceil(2));
        self.waiting_per_tenant_max.or(half)
    }

    /// Refuses what the engine that is asked for does not know.
    fn check(&self) -> Result<(), ConfigError> {
        let foreign = match self.engine {
            EngineKind::Native => vec![("isq", self.isq.is_some())],
            EngineKind::Mistralrs => vec![
                ("device", self.device.is_some()),
                ("threads", self.threads.is_some()),
                ("kv_tokens_max", self.kv_tokens_max.is_some()),
                ("kv_bytes_max", self.kv_bytes_max.is_some()),
                ("kv_cache", self.kv_cache.is_some()),
                ("quantize", self.quantize.is_some()),
            ],
        };
        let refused = |name: &str, reason: String| {
            let name = format!("engine.{name}");
            Err(ConfigError::Value { name, reason })
        };
        if let Some((name, _)) = foreign.into_iter().find(|(_, is_set)| *is_set) {
            let engine = self.engine.as_str();
            return refused(name, format!("the engine {engine:?} does not have it"));
        }
        match self.threads.unwrap_or(0) {
            ..=THREADS_MAX => Ok(()),
            threads => refused("threads", format!("{threads} is more than {THREADS_MAX}")),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not the TOML that is expected.
    #[error("{path}: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with its place.
        reason: String,
    },
    /// A value cannot be used.
    #[error("{name}: {reason}")]
    Value {
        /// Which option.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Everyone could send requests from anywhere.
    #[error(
        "refusing to listen on {0}: no API keys are configured, so anyone who reaches this address could use the model and vote. Listen on 127.0.0.1, or configure [[keys]]"
    )]
    OpenToAll(SocketAddr),
}

impl Config {
    /// A gateway on this machine only, with the embedded store in `data` and
    /// everything else at its default.
    #[must_use]
    pub fn local(model: PathBuf, data: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            model,
            data,
            store: "embedded".to_owned(),
            adapter_root: None,
            durability: Durability::Fsynced,
            redis: RedisCredentials::default(),
            models: ModelName::new(MODEL_NAME_DEFAULT).into_iter().collect(),
            keys: Vec::new(),
            admin_key: None,
            engine: EngineConfig::default(),
            body_bytes_max: BODY_BYTES_MAX_DEFAULT,
            drain: DRAIN_DEFAULT,
            show_arm: false,
        }
    }

    /// Checks what only shows when all options are together.
    ///
    /// # Errors
    /// [`ConfigError::OpenToAll`], names that occur twice, and more threads than
    /// the engine can have.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.keys.is_empty() && !self.listen.ip().is_loopback() {
            return Err(ConfigError::OpenToAll(self.listen));
        }
        self.engine.check()?;
        let twice = |name: &str, value: &str| ConfigError::Value {
            name: name.to_owned(),
            reason: format!("{value:?} occurs twice"),
        };
        for (i, model) in self.models.iter().enumerate() {
            if self.models[..i].contains(model) {
                return Err(twice("models", model.as_str()));
            }
        }
        for (i, key) in self.keys.iter().enumerate() {
            if self.keys[..i].iter().any(|other| other.name == key.name) {
                return Err(twice("keys", &key.name));
            }
            if self.keys[..i]
                .iter()
                .any(|other| other.digest == key.digest)
            {
                return Err(twice("keys", &format!("the key of {}", key.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_only_this_machine_is_served() {
        let mut config = Config::local("m".into(), "d".into());
        config.check().unwrap();
        config.listen = "[::1]:80".parse().unwrap();
        config.check().unwrap();
        config.listen = "0.0.0.0:80".parse().unwrap();
        let error = config.check().unwrap_err();
        assert!(matches!(error, ConfigError::OpenToAll(_)));
        assert!(error.to_string().contains("no API keys"), "{error}");
        config
            .keys
            .push(ApiKey::new("a", "secret-secret-secret", None, None).unwrap());
        config.check().unwrap();
        config
            .keys
            .push(ApiKey::new("b", "secret-secret-secret", None, None).unwrap());
        assert!(config.check().is_err(), "one secret for two names");
    }
}
