//! The engines that this build can serve with. The native one is always there;
//! a program that links another one adds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use engine::native::{NativeEngine, NativeOptions};

use crate::config::{Config, ConfigError, EngineConfig, EngineKind};

/// Opens the configured model; where it fails, says why.
type Opener = dyn Fn(&Config) -> Result<Arc<dyn Engine>, String> + Send + Sync;

/// What can open a model.
#[derive(Clone, Default)]
pub struct Engines {
    others: BTreeMap<EngineKind, Arc<Opener>>,
}

impl Engines {
    /// Adds an engine beside the native one. `open` may take long.
    #[must_use]
    pub fn with(
        mut self,
        kind: EngineKind,
        open: impl Fn(&Config) -> Result<Arc<dyn Engine>, String> + Send + Sync + 'static,
    ) -> Self {
        self.others.insert(kind, Arc::new(open));
        self
    }

    /// Refuses a configuration that asks for an engine that is not here.
    pub(crate) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        let kind = config.engine.engine;
        if kind == EngineKind::Native || self.others.contains_key(&kind) {
            return Ok(());
        }
        Err(ConfigError::Value {
            name: "engine.engine".to_owned(),
            reason: format!(
                "this program was built without {:?}; `make build-mistralrs` builds flywheel-mistralrs, which has it",
                kind.as_str()
            ),
        })
    }

    /// Opens the configured model, which another engine is given as a path.
    pub(crate) fn open(&self, config: &Config) -> Result<Arc<dyn Engine>, String> {
        let model = hub::resolve_and_log(&config.model).map_err(|error| error.to_string())?;
        if let Some(open) = self.others.get(&config.engine.engine) {
            let mut config = config.clone();
            config.model = model;
            return open(&config);
        }
        let options = native(&config.engine, config.keys.len());
        let engine = NativeEngine::open(&model, options);
        Ok(Arc::new(engine.map_err(|error| error.to_string())?))
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_not_built_in_is_refused_by_name() {
        let mut config = Config::local("m".into(), "d".into());
        Engines::default().check(&config).unwrap();
        config.engine.engine = EngineKind::Mistralrs;
        let error = Engines::default().check(&config).unwrap_err().to_string();
        assert!(
            error.contains("mistralrs") && error.contains("built without"),
            "{error}"
        );
        let engines = Engines::default().with(EngineKind::Mistralrs, |_| Err("here".to_owned()));
        engines.check(&config).unwrap();
        assert_eq!(engines.open(&config).err().unwrap(), "here");
    }
}
