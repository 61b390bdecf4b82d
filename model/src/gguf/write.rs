//! Writes GGUF files, version 3: metadata as its bytes, then tensors one after
//! the other, in the order in which they were announced.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{ALIGNMENT_DEFAULT, TENSOR_NAME_BYTES_MAX};
use crate::ModelError;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) name: String,
    /// ggml's number of its format.
    pub(crate) format: u32,
    /// Rows first, as [`super::TensorInfo`] has it.
    pub(crate) shape: Vec<usize>,
    pub(crate) byte_len: usize,
}

/// A metadata entry: its key, and its value with its type as the file has it.
pub(crate) type Entry = (String, Vec<u8>);

/// A text as a metadata value.
pub(crate) fn text(value: &str) -> Vec<u8> {
    let mut bytes = 8u32.to_le_bytes().to_vec();
    add_text(&mut bytes, value);
    bytes
}

/// An f32 as a metadata value.
pub(crate) fn float(value: f32) -> Vec<u8> {
    [6u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// A u32 as a metadata value.
pub(crate) fn unsigned(value: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn add_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A file that is being written beside its place, and gets there at the end:
/// what has its name is whole.
pub(crate) struct GgufWriter {
    out: BufWriter<File>,
    to: PathBuf,
    part: PathBuf,
    /// Bytes that each tensor still to come has.
    announced: std::vec::IntoIter<usize>,
    /// Of the tensor that is being written.
    left: usize,
    padding: usize,
}

impl GgufWriter {
    /// Writes the head of the file that is to be at `to`.
    ///
    /// # Errors
    /// [`ModelError::Write`], or [`ModelError::Limit`] for a name that is too long.
    pub(crate) fn begin(
        to: &Path,
        metadata: &[Entry],
        tensors: &[Announced],
    ) -> Result<Self, ModelError> {
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            add_text(&mut head, key);
            head.extend(value);
        }
        let mut offset = 0u64;
        for tensor in tensors {
            if tensor.name.len() > TENSOR_NAME_BYTES_MAX {
                return Err(ModelError::Limit {
                    what: "length of a tensor name",
                    found: tensor.name.len() as u64,
                    max: TENSOR_NAME_BYTES_MAX as u64,
                });
            }
            add_text(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            // the file has them the other way round
            for size in tensor.shape.iter().rev() {
                head.extend((*size as u64).to_le_bytes());
            }
            head.extend(tensor.format.to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += (tensor.byte_len as u64).next_multiple_of(ALIGNMENT_DEFAULT);
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
        let mut part = to.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(failed(&part))?;
        let announced: Vec<usize> = tensors.iter().map(|tensor| tensor.byte_len).collect();
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, file),
            to: to.to_owned(),
            part,
            announced: announced.into_iter(),
            left: 0,
            padding: 0,
        };
        writer.write(&head)?;
        Ok(writer)
    }

    /// Goes on to the next tensor.
    ///
    /// # Errors
    /// [`ModelError::Write`]; also when the tensor before is not complete.
    pub(crate) fn next_tensor(&mut self) -> Result<(), ModelError> {
        self.end_tensor()?;
        let Some(len) = self.announced.next() else {
            return Err(self.disagrees());
        };
        self.left = len;
        self.padding = len.next_multiple_of(ALIGNMENT_DEFAULT as usize) - len;
        Ok(())
    }

    /// Writes more of the tensor's bytes.
    ///
    /// # Errors
    /// [`ModelError::Write`]; also for more bytes than were announced.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => self.left = left,
            None => return Err(self.disagrees()),
        }
        self.write(bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`ModelError::Write`]; also when a tensor is missing.
    pub(crate) fn finish(mut self) -> Result<(), ModelError> {
        self.end_tensor()?;
        if self.announced.len() > 0 {
            return Err(self.disagrees());
        }
        let (part, to) = (self.part.clone(), self.to.clone());
        self.out.flush().map_err(failed(&part))?;
        self.out.get_ref().sync_all().map_err(failed(&part))?;
        std::fs::rename(&part, &to).map_err(failed(&to))
    }

    fn end_tensor(&mut self) -> Result<(), ModelError> {
        if self.left > 0 {
            return Err(self.disagrees());
        }
        let padding = std::mem::take(&mut self.padding);
        self.write(&vec![0; padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.out.write_all(bytes).map_err(failed(&self.part))
    }

    fn disagrees(&self) -> ModelError {
        let what = "the tensors are other than those in the head";
        failed(&self.part)(std::io::Error::other(what))
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> ModelError {
    let path = path.to_owned();
    move |source| ModelError::Write {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    fn announced(name: &str, shape: &[usize]) -> Announced {
        Announced {
            name: name.to_owned(),
            format: 0,
            shape: shape.to_vec(),
            byte_len: 4 * shape.iter().product::<usize>(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("a.gguf");
        let metadata = [
            ("a".to_owned(), text("größer")),
            ("b".to_owned(), float(1.5)),
            ("c".to_owned(), unsigned(7)),
        ];
        let tensors = [announced("x", &[1, 3]), announced("y", &[2])];
        let mut writer = GgufWriter::begin(&to, &metadata, &tensors).unwrap();
        writer.next_tensor().unwrap();
        writer.add(&[1; 5]).unwrap();
        writer.add(&[2; 7]).unwrap();
        writer.next_tensor().unwrap();
        writer.add(&[3; 8]).unwrap();
        assert!(!to.exists());
        writer.finish().unwrap();
        let bytes = std::fs::read(&to).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.required("a", |v| v.as_str()).unwrap(), "größer");
        assert_eq!(gguf.required("b", |v| v.as_f64()).unwrap(), 1.5);
        assert_eq!(gguf.required("c", |v| v.as_u64()).unwrap(), 7);
        let (x, y) = (gguf.tensor("x").unwrap(), gguf.tensor("y").unwrap());
        assert_eq!((&x.shape[..], &y.shape[..]), (&[1, 3][..], &[2][..]));
        assert_eq!(bytes[x.range.clone()], [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(bytes[y.range.clone()], [3; 8]);
    }

    #[test]
    fn what_was_not_announced_is_refused_and_gets_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("a.gguf");
        let begin = || GgufWriter::begin(&to, &[], &[announced("x", &[2])]).unwrap();
        let mut writer = begin();
        writer.next_tensor().unwrap();
        assert!(writer.add(&[0; 9]).is_err());
        writer.add(&[0; 7]).unwrap();
        assert!(writer.next_tensor().is_err());
        assert!(writer.finish().is_err());
        assert!(begin().finish().is_err(), "a tensor is missing");
        assert!(!to.exists());
    }
}
