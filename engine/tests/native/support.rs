//! The real model, opened once.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use model::BaseModel;

/// Where the model is, as `make model` puts it.
fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("FLYWHEEL_TEST_MODEL") {
        return path.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    cache.join("flywheel/models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The model.
pub(crate) fn model() -> Arc<BaseModel> {
    static MODEL: LazyLock<Arc<BaseModel>> = LazyLock::new(|| {
        let path = path();
        assert!(
            path.exists(),
            "{} is missing: run `make model`",
            path.display()
        );
        Arc::new(BaseModel::open(&path).unwrap())
    });
    Arc::clone(&MODEL)
}

/// A golden file of the workspace.
pub(crate) fn golden(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
