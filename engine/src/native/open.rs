//! From a file to a running engine, for callers that know no model.

use std::path::Path;
use std::sync::Arc;

use model::{BaseModel, ModelError};

use super::{NativeEngine, NativeOptions};
use crate::api::EngineError;

/// Why a file could not be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is no model that can be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl NativeEngine {
    /// Reads the GGUF file or the published folder at `path` and starts an engine on it.
    ///
    /// # Errors
    /// What is wrong with the file, or why the engine did not start.
    pub fn open(path: &Path, options: NativeOptions) -> Result<Self, OpenError> {
        let model = BaseModel::open_quantized(path, options.quantize)?;
        Ok(Self::start(Arc::new(model), options)?)
    }
}
