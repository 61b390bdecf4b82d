//! The engines that this build can serve with: the native one always, the crate
//! `mistralrs` with the feature of that name.

#[cfg(feature = "mistralrs")]
mod mistralrs;

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::native::{NativeEngine, NativeOptions};

use crate::config::{Config, ConfigError, EngineConfig, EngineKind};

/// Refuses a configuration that asks for an engine that is not built in.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    match config.engine.engine {
        EngineKind::Native => Ok(()),
        EngineKind::Mistralrs if cfg!(feature = "mistralrs") => Ok(()),
        EngineKind::Mistralrs => Err(ConfigError::Value {
            name: "engine.engine".to_owned(),
            reason: "this program was built without the feature `mistralrs`; `make build-mistralrs` builds one that has it".to_owned(),
        }),
    }
}

/// Opens the configured model; where it fails, says why. May take long.
pub(crate) fn open(config: &Config) -> Result<Arc<dyn Engine>, String> {
    check(config).map_err(|error| error.to_string())?;
    let model = hub::resolve_and_log(&config.model).map_err(|error| error.to_string())?;
    #[cfg(feature = "mistralrs")]
    if config.engine.engine == EngineKind::Mistralrs {
        return mistralrs::open(&model, config);
    }
    let options = native(&config.engine, config.keys.len());
    let engine = NativeEngine::open(&model, options);
    Ok(Arc::new(engine.map_err(|error| error.to_string())?))
}

/// How long a load waits for adapters in use to make room.
pub(crate) fn adapter_wait_max(config: &EngineConfig) -> Duration {
    let default = NativeOptions::default().adapter_wait_max;
    config
        .adapter_wait_seconds
        .map_or(default, Duration::from_secs)
}

fn native(config: &EngineConfig, keys: usize) -> NativeOptions {
    let default = NativeOptions::default();
    let kv_tokens_default = match config.kv_bytes_max {
        None => default.kv_tokens_max,
        Some(_) => u32::MAX,
    };
    let waiting_max = config.waiting_max.unwrap_or(default.waiting_max);
    NativeOptions {
        device: config.device.unwrap_or(default.device),
        threads: config.threads.unwrap_or(default.threads),
        running_max: config.running_max.unwrap_or(default.running_max),
        waiting_max,
        waiting_per_tenant_max: config.waiting_per_tenant_max(waiting_max, keys),
        kv_tokens_max: config.kv_tokens_max.unwrap_or(kv_tokens_default),
        kv_bytes_max: config.kv_bytes_max.or(default.kv_bytes_max),
        kv_cache: config.kv_cache.unwrap_or(default.kv_cache),
        prefix_cache: config.prefix_cache.unwrap_or(default.prefix_cache),
        context_length_max: config.context_length_max.or(default.context_length_max),
        adapter_bytes_max: config
            .adapter_bytes_max
            .unwrap_or(default.adapter_bytes_max),
        adapter_wait_max: adapter_wait_max(config),
        queue_wait_max: config
            .queue_wait_seconds
            .map_or(default.queue_wait_max, Duration::from_secs),
        quantize: config.quantize.unwrap_or(default.quantize),
        ..default
    }
}

#[cfg(all(test, not(feature = "mistralrs")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_built_in_is_refused_by_name() {
        let mut config = Config::local("m".into(), "d".into());
        check(&config).unwrap();
        config.engine.engine = EngineKind::Mistralrs;
        let error = check(&config).unwrap_err().to_string();
        assert!(
            error.contains("mistralrs") && error.contains("built without"),
            "{error}"
        );
        assert_eq!(open(&config).err().unwrap(), error);
    }
}
