//! A model's GGUF file, or all parts of one that was split.
//!
//! Parts are named `NAME-00001-of-00003.gguf` and so on; the first has the
//! metadata, and each says how many there are and which it is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ids::Sha256Digest;
use memmap2::Mmap;

use super::{Gguf, TensorInfo, Value};
use crate::ModelError;

/// The most parts of a model.
const PARTS_MAX: u64 = 512;
const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// The mapped files of one model, with their heads.
pub struct GgufFiles {
    /// The first part first; at least one.
    first: Part,
    others: Vec<Part>,
    name: String,
}

struct Part {
    gguf: Gguf,
    file: Arc<Mmap>,
}

impl Part {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only and private; that nobody truncates or
        // rewrites a model file in use is the operator's part, as documented.
        let file = Arc::new(unsafe { Mmap::map(&file) }.map_err(io)?);
        let gguf = Gguf::parse(&file)?;
        Ok(Self { gguf, file })
    }

    fn number(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.gguf.optional(key, Value::as_u64)
    }
}

fn wrong(key: &str, problem: &'static str) -> ModelError {
    ModelError::Metadata {
        key: key.to_owned(),
        problem,
    }
}

impl GgufFiles {
    /// Opens a file, and all other parts when it is the first of several. They
    /// must not be changed while they are open.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the path of a part that is missing, and what
    /// [`Gguf::parse`] says; [`ModelError::Metadata`] when the parts do not
    /// belong together.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let first = Part::open(path)?;
        let count = first.number(COUNT)?.unwrap_or(1);
        if count > PARTS_MAX {
            return Err(ModelError::Limit {
                what: "number of parts of a model",
                found: count,
                max: PARTS_MAX,
            });
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if count <= 1 {
            return Ok(Self {
                name: stem.into_owned(),
                first,
                others: Vec::new(),
            });
        }
        if first.number(NUMBER)? != Some(0) {
            return Err(wrong(NUMBER, "is not 0: the first part is to be opened"));
        }
        let name = stem.strip_suffix(&suffix(0, count)).ok_or_else(|| {
            wrong(
                COUNT,
                "is not in the file's name (NAME-00001-of-00003.gguf)",
            )
        })?;
        let part = |number: u64| {
            let part = Part::open(&sibling(path, name, number, count))?;
            if (part.number(NUMBER)?, part.number(COUNT)?) != (Some(number), Some(count)) {
                return Err(wrong(
                    NUMBER,
                    "or the count is another than in the file's name",
                ));
            }
            Ok(part)
        };
        let files = Self {
            name: name.to_owned(),
            others: (1..count).map(part).collect::<Result<_, _>>()?,
            first,
        };
        files.check_tensors()?;
        Ok(files)
    }

    /// No tensor is in two parts, and all are there.
    fn check_tensors(&self) -> Result<(), ModelError> {
        let mut names: Vec<&str> = self.tensors().map(|t| t.name.as_str()).collect();
        let found = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() != found {
            return Err(wrong(COUNT, "parts have a tensor twice"));
        }
        match self.first.number(TENSORS)? {
            Some(expected) if expected != found as u64 => {
                Err(wrong(TENSORS, "is not how many tensors the parts have"))
            }
            _ => Ok(()),
        }
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &Gguf {
        &self.first.gguf
    }

    /// The bytes of the first file, which has the metadata.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        &self.first.file
    }

    /// The file's name without its extension and without its number.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of the file; of several parts, that of all in order.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        if self.others.is_empty() {
            return Sha256Digest::of(&self.first.file[..]);
        }
        let names: Vec<String> = (0..=self.others.len()).map(|n| n.to_string()).collect();
        let parts: Vec<(&str, &[u8])> = names
            .iter()
            .map(String::as_str)
            .zip(self.parts().map(|part| &part.file[..]))
            .collect();
        Sha256Digest::of_parts(&parts)
    }

    /// All tensors of all parts, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.parts().flat_map(|part| part.gguf.tensors())
    }

    /// The tensor with this name, and the file that its range is of.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<(&TensorInfo, &Arc<Mmap>), ModelError> {
        self.parts()
            .find_map(|part| Some((part.gguf.tensor(name).ok()?, &part.file)))
            .ok_or_else(|| ModelError::TensorMissing(name.to_owned()))
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

fn suffix(number: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}", number + 1)
}

fn sibling(path: &Path, name: &str, number: u64, count: u64) -> PathBuf {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}{}.{extension}", suffix(number, count)))
}
