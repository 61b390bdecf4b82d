//! The TOML file, and how it is put together with flags and environment.
//! Precedence: flag, environment, file, default. Unknown keys are refused, so
//! that a misspelt limit is never silently no limit.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ids::ModelName;
use serde::Deserialize;
use store::{Durability, RedisCredentials, Secret};

use super::keys::{ApiKey, KeyDigest, checked};
use super::{
    AdminKey, BODY_BYTES_MAX_DEFAULT, Config, ConfigError, DRAIN_DEFAULT, EngineConfig,
    LISTEN_DEFAULT, MODEL_NAME_DEFAULT,
};

/// The longest configuration file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What flags and environment say; each wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The TOML file.
    pub config: Option<PathBuf>,
    /// The GGUF file.
    pub model: Option<PathBuf>,
    /// Where to listen.
    pub listen: Option<String>,
    /// The data folder.
    pub data: Option<PathBuf>,
    /// The store.
    pub store: Option<String>,
    /// The folder beneath which adapters may be imported.
    pub adapter_root: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<String>,
    model: Option<PathBuf>,
    data: Option<PathBuf>,
    store: Option<String>,
    adapter_root: Option<PathBuf>,
    durability: Option<Durability>,
    redis_username: Option<String>,
    redis_password_file: Option<PathBuf>,
    models: Vec<ModelEntry>,
    keys: Vec<KeyEntry>,
    engine: EngineConfig,
    body_bytes_max: Option<usize>,
    drain_seconds: Option<u64>,
    show_arm: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    name: ModelName,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    key: Option<String>,
    key_sha256: Option<String>,
    key_file: Option<PathBuf>,
    requests_per_minute: Option<NonZeroU32>,
    tokens_per_minute: Option<NonZeroU32>,
}

fn value(name: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        name: name.to_owned(),
        reason: reason.into(),
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let fail = |source| ConfigError::File {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(value(
            &path.display().to_string(),
            format!("it is longer than {FILE_BYTES_MAX} bytes"),
        ));
    }
    std::fs::read_to_string(path).map_err(fail)
}

impl Config {
    /// Puts flags, environment, file and defaults together. `env` reads the
    /// secrets, which no flag takes.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn resolve(
        flags: Overrides,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            None => File::default(),
            Some(path) => {
                toml::from_str(&read_text(path)?).map_err(|error| ConfigError::Syntax {
                    path: path.clone(),
                    reason: error.to_string(),
                })?
            }
        };
        let listen = flags
            .listen
            .or(file.listen.clone())
            .unwrap_or(LISTEN_DEFAULT.to_owned());
        let listen: SocketAddr = listen
            .parse()
            .map_err(|_| value("listen", format!("{listen:?} is no ADDRESS:PORT")))?;
        let models = if file.models.is_empty() {
            ModelName::new(MODEL_NAME_DEFAULT).into_iter().collect()
        } else {
            file.models.iter().map(|entry| entry.name.clone()).collect()
        };
        let config = Self {
            listen,
            model: flags.model.or(file.model.clone()).ok_or_else(|| {
                value(
                    "model",
                    "no model is given: use --model, FLYWHEEL_MODEL or the file",
                )
            })?,
            data: flags
                .data
                .or(file.data.clone())
                .unwrap_or(PathBuf::from("data")),
            store: flags
                .store
                .or(file.store.clone())
                .unwrap_or("embedded".to_owned()),
            adapter_root: flags.adapter_root.or(file.adapter_root.clone()),
            durability: file.durability.unwrap_or(Durability::Fsynced),
            redis: redis_credentials(&file, &env)?,
            models,
            keys: file.keys.iter().map(api_key).collect::<Result<_, _>>()?,
            admin_key: env("FLYWHEEL_ADMIN_KEY")
                .map(|key| AdminKey::new(&key))
                .transpose()?,
            engine: file.engine.clone(),
            body_bytes_max: file.body_bytes_max.unwrap_or(BODY_BYTES_MAX_DEFAULT),
            drain: file
                .drain_seconds
                .map_or(DRAIN_DEFAULT, Duration::from_secs),
            show_arm: file.show_arm.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }
}

/// Environment, then file; a password never comes from the command line.
fn redis_credentials(
    file: &File,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<RedisCredentials, ConfigError> {
    let path = env("FLYWHEEL_REDIS_PASSWORD_FILE")
        .map(PathBuf::from)
        .or(file.redis_password_file.clone());
    let password = match (env("FLYWHEEL_REDIS_PASSWORD"), path) {
        (Some(password), _) => Some(password),
        (None, Some(path)) => Some(read_text(&path)?.trim_end_matches(['\r', '\n']).to_owned()),
        (None, None) => None,
    };
    Ok(RedisCredentials {
        username: env("FLYWHEEL_REDIS_USERNAME").or(file.redis_username.clone()),
        password: password.map(Secret::new),
    })
}

fn api_key(entry: &KeyEntry) -> Result<ApiKey, ConfigError> {
    let name = &entry.name;
    let option = format!("keys.{name}");
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(value(
            "keys.name",
            "1 to 64 printable ASCII characters are needed",
        ));
    }
    let digest = match (&entry.key, &entry.key_sha256, &entry.key_file) {
        (Some(key), None, None) => KeyDigest::of(checked(name, key)?.as_bytes()),
        (None, Some(digest), None) => KeyDigest::from_hex(digest)
            .ok_or_else(|| value(&option, "key_sha256 must have 64 hexadecimal digits"))?,
        (None, None, Some(path)) => KeyDigest::of(checked(name, &read_text(path)?)?.as_bytes()),
        _ => {
            return Err(value(
                &option,
                "exactly one of key, key_sha256 and key_file is needed",
            ));
        }
    };
    Ok(ApiKey {
        name: name.clone(),
        digest,
        requests_per_minute: entry.requests_per_minute,
        tokens_per_minute: entry.tokens_per_minute,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn resolve(text: &str, flags: Overrides) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flywheel.toml");
        std::fs::write(&path, text).unwrap();
        Config::resolve(
            Overrides {
                config: Some(path),
                ..flags
            },
            |_| None,
        )
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text = "model = 'file.gguf'\nstore = 'redis://h/0'\nlisten = '127.0.0.1:99'";
        let flags = Overrides {
            model: Some("flag.gguf".into()),
            ..Overrides::default()
        };
        let config = resolve(text, flags).unwrap();
        assert_eq!(config.model, PathBuf::from("flag.gguf"));
        assert_eq!(config.store, "redis://h/0");
        assert_eq!(config.listen.port(), 99);
        assert_eq!(config.data, PathBuf::from("data"));
        assert_eq!(config.models[0].as_str(), MODEL_NAME_DEFAULT);
    }

    #[test]
    fn unknown_and_wrong_options_are_named() {
        let flags = || Overrides {
            model: Some("m".into()),
            ..Overrides::default()
        };
        for (text, needle) in [
            ("modle = 'x'", "modle"),
            ("[engine]\nthreds = 2", "threds"),
            ("[engine]\ndevice = 'gpu'", "cuda:0"),
            ("[engine]\nengine = 'vllm'", "vllm"),
            ("[engine]\nisq = 'q4k'", "engine.isq"),
            (
                "[engine]\nengine = 'mistralrs'\nthreads = 2",
                "engine.threads",
            ),
            (
                "[engine]\nthreads = 257",
                "engine.threads: 257 is more than 256",
            ),
            ("[[keys]]\nname = 'a'\nkey = 'short'", "at least 16"),
            ("[[keys]]\nname = 'a'", "exactly one"),
            ("[[keys]]\nname = 'a'\nkey_sha256 = 'zz'", "64 hexadecimal"),
            ("[[keys]]\nname = 'a'\nrequests_per_minute = 0", "nonzero"),
            ("listen = 'here'", "ADDRESS:PORT"),
            ("listen = '0.0.0.0:1'", "no API keys"),
            ("durability = 'maybe'", "maybe"),
        ] {
            let error = resolve(text, flags()).unwrap_err().to_string();
            assert!(error.contains(needle), "{text:?} gave {error:?}");
        }
        let error = resolve("", Overrides::default()).unwrap_err().to_string();
        assert!(error.contains("no model"), "{error}");
    }

    #[test]
    fn secrets_come_from_environment_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "hunter22\n").unwrap();
        let env = |name: &str| match name {
            "FLYWHEEL_REDIS_PASSWORD_FILE" => Some(password.display().to_string()),
            "FLYWHEEL_ADMIN_KEY" => Some("an-admin-key-that-is-long".to_owned()),
            _ => None,
        };
        let flags = Overrides {
            model: Some("m".into()),
            ..Overrides::default()
        };
        let config = Config::resolve(flags, env).unwrap();
        assert_eq!(config.redis.password.unwrap().reveal(), "hunter22");
        assert_eq!(
            config.admin_key.unwrap().reveal(),
            "an-admin-key-that-is-long"
        );
    }
}
