//! Reads GGUF files, versions 2 and 3: metadata, and where each tensor lies.
//! `write` writes them.
//!
//! The file is untrusted: every count, length, dimension and offset is checked
//! against a limit and against the file's size before it is used. Knows
//! nothing of what the metadata or the tensors mean.

mod cursor;
mod files;
mod ggml_type;
mod value;
mod write;

use std::collections::HashMap;
use std::ops::Range;

pub use files::GgufFiles;
pub use ggml_type::GgmlType;
pub use value::Value;
pub(crate) use write::{Announced, Entry, GgufWriter, float, text, unsigned};

use crate::ModelError;
use cursor::Cursor;
use value::ValueReader;

/// The most metadata entries.
const METADATA_COUNT_MAX: usize = 4096;
/// The longest metadata key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// The most tensors.
const TENSOR_COUNT_MAX: usize = 1 << 16;
/// The longest tensor name, in bytes.
const TENSOR_NAME_BYTES_MAX: usize = 256;
/// The most dimensions that ggml tensors have.
const DIMENSIONS_MAX: u32 = 4;
/// The most elements that one tensor may have.
const TENSOR_ELEMENTS_MAX: usize = 1 << 36;
/// Where the tensors are aligned to when the file does not say.
const ALIGNMENT_DEFAULT: u64 = 32;
/// The largest alignment.
const ALIGNMENT_MAX: u64 = 1 << 16;

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// How its elements are stored.
    pub kind: GgmlType,
    /// Its dimensions, rows first: `[out, in]` for a matrix. (The file has
    /// them the other way round.)
    pub shape: Vec<usize>,
    /// Its bytes, as a range of the file's.
    pub range: Range<usize>,
}

/// What a GGUF file says of itself.
#[derive(Debug, Clone)]
pub struct Gguf {
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads the head of the file whose bytes are `file`.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] where the file is damaged, [`ModelError::Limit`]
    /// where it is too large, [`ModelError::UnsupportedFormat`] for a tensor of
    /// a type that ggml does not number.
    pub fn parse(file: &[u8]) -> Result<Self, ModelError> {
        let mut cursor = Cursor::new(file);
        if cursor.take(4)? != b"GGUF" {
            return Err(ModelError::Gguf {
                offset: 0,
                problem: "it does not begin with GGUF",
            });
        }
        if !matches!(cursor.u32()?, 2 | 3) {
            return Err(ModelError::Gguf {
                offset: 4,
                problem: "its version is neither 2 nor 3",
            });
        }
        let tensor_count = cursor.count("number of tensors", TENSOR_COUNT_MAX)?;
        let metadata_count = cursor.count("number of metadata entries", METADATA_COUNT_MAX)?;
        let metadata = read_metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(&metadata)?;
        let heads = (0..tensor_count)
            .map(|_| TensorHead::read(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        let data_start = align_up(cursor.position(), alignment);
        let mut tensors = HashMap::with_capacity(heads.len());
        for head in heads {
            let tensor = head.place(data_start, alignment, file.len())?;
            if let Some(twice) = tensors.insert(tensor.name.clone(), tensor) {
                let offset = twice.range.start;
                return Err(ModelError::Gguf {
                    offset,
                    problem: "two tensors have one name",
                });
            }
        }
        Ok(Self { metadata, tensors })
    }

    /// Metadata alone, as if it had been read from a file.
    pub(crate) fn of_metadata(metadata: HashMap<String, Value>) -> Self {
        Self {
            metadata,
            tensors: HashMap::new(),
        }
    }

    /// The metadata value with this key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The metadata value with this key, which must be there, as `read` sees it.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is missing or `read` does not take it.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, ModelError> {
        let wrong = |problem| ModelError::Metadata {
            key: key.to_owned(),
            problem,
        };
        let value = self.value(key).ok_or_else(|| wrong("is missing"))?;
        read(value).ok_or_else(|| wrong("has the wrong type or range"))
    }

    /// The metadata value with this key as `read` sees it, if it is there.
    ///
    /// # Errors
    /// [`ModelError::Metadata`] when it is there and `read` does not take it.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(_) => self.required(key, read).map(Some),
        }
    }

    /// The tensor with this name.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.tensors
            .get(name)
            .ok_or_else(|| ModelError::TensorMissing(name.to_owned()))
    }

    /// All tensors, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// Whether there is a tensor with this name.
    #[must_use]
    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

fn read_metadata(
    cursor: &mut Cursor<'_>,
    count: usize,
) -> Result<HashMap<String, Value>, ModelError> {
    let mut reader = ValueReader::new();
    let mut metadata = HashMap::with_capacity(count);
    for _ in 0..count {
        let key = cursor
            .string("length of a metadata key", KEY_BYTES_MAX)?
            .to_owned();
        let value = reader.read(cursor)?;
        if metadata.insert(key, value).is_some() {
            return Err(cursor.problem("two metadata entries have one key"));
        }
    }
    Ok(metadata)
}

/// The metadata of a file as it stands there.
///
/// # Errors
/// As [`Gguf::parse`].
pub(crate) fn metadata_entries(file: &[u8]) -> Result<Vec<Entry>, ModelError> {
    let mut cursor = Cursor::new(file);
    cursor.take(8)?;
    cursor.count("number of tensors", TENSOR_COUNT_MAX)?;
    let count = cursor.count("number of metadata entries", METADATA_COUNT_MAX)?;
    let mut reader = ValueReader::new();
    (0..count)
        .map(|_| {
            let key = cursor.string("length of a metadata key", KEY_BYTES_MAX)?;
            let start = cursor.position();
            reader.read(&mut cursor)?;
            Ok((key.to_owned(), file[start..cursor.position()].to_vec()))
        })
        .collect()
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<usize, ModelError> {
    let key = "general.alignment";
    let found = match metadata.get(key) {
        None => Some(ALIGNMENT_DEFAULT),
        Some(value) => value.as_u64(),
    };
    found
        .filter(|a| a.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(a))
        .and_then(|a| usize::try_from(a).ok())
        .ok_or_else(|| ModelError::Metadata {
            key: key.to_owned(),
            problem: "is no power of two from 8 to 65536",
        })
}

/// `position` is an index into a slice and `alignment` at most 65536, so that
/// the sum cannot overflow.
fn align_up(position: usize, alignment: usize) -> usize {
    position.div_ceil(alignment) * alignment
}

/// A tensor's entry in the file's head.
struct TensorHead {
    name: String,
    kind: GgmlType,
    shape: Vec<usize>,
    byte_len: usize,
    /// From the start of the tensor data.
    offset: u64,
    /// Where the entry ends, for messages.
    position: usize,
}

impl TensorHead {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, ModelError> {
        let name = cursor
            .string("length of a tensor name", TENSOR_NAME_BYTES_MAX)?
            .to_owned();
        let dimensions = cursor.u32()?;
        if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
            return Err(cursor.problem("a tensor has no dimensions, or more than four"));
        }
        let mut shape = Vec::with_capacity(4);
        let mut elements = 1usize;
        for _ in 0..dimensions {
            let size = cursor.count("size of a tensor dimension", TENSOR_ELEMENTS_MAX)?;
            if size == 0 {
                return Err(cursor.problem("a tensor has an empty dimension"));
            }
            elements = elements.saturating_mul(size);
            shape.push(size);
        }
        if elements > TENSOR_ELEMENTS_MAX {
            let (found, max) = (elements as u64, TENSOR_ELEMENTS_MAX as u64);
            return Err(ModelError::Limit {
                what: "number of tensor elements",
                found,
                max,
            });
        }
        let cols = shape[0];
        shape.reverse();
        let id = cursor.u32()?;
        let Some(kind) = GgmlType::from_id(id) else {
            return Err(ModelError::UnsupportedFormat {
                tensor: name,
                format: format!("type {id}"),
            });
        };
        let byte_len = kind
            .byte_len(elements / cols, cols)
            .ok_or_else(|| cursor.problem("a tensor's rows are no whole blocks"))?;
        let offset = cursor.u64()?;
        Ok(Self {
            name,
            kind,
            shape,
            byte_len,
            offset,
            position: cursor.position(),
        })
    }

    /// The tensor, when all of it lies inside of the file.
    fn place(
        self,
        data_start: usize,
        alignment: usize,
        file_len: usize,
    ) -> Result<TensorInfo, ModelError> {
        let problem = |problem| ModelError::Gguf {
            offset: self.position,
            problem,
        };
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(problem("a tensor's offset is not aligned"));
        }
        let start = usize::try_from(self.offset)
            .ok()
            .and_then(|o| o.checked_add(data_start));
        let range = start
            .and_then(|start| Some(start..start.checked_add(self.byte_len)?))
            .filter(|range| range.end <= file_len)
            .ok_or_else(|| problem("a tensor ends after the end of the file"))?;
        Ok(TensorInfo {
            name: self.name,
            kind: self.kind,
            shape: self.shape,
            range,
        })
    }
}
