//! Reads little-endian values from a byte slice, never past its end.

use crate::ModelError;

/// A position in a GGUF file's bytes.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// How many bytes lie ahead; no count of things that are still to be read
    /// can be larger.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn problem(&self, problem: &'static str) -> ModelError {
        ModelError::Gguf {
            offset: self.position,
            problem,
        }
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], ModelError> {
        let ahead = &self.bytes[self.position..];
        let taken = ahead
            .get(..len)
            .ok_or_else(|| self.problem("the file ends too early"))?;
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut array = [0u8; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ModelError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn i8(&mut self) -> Result<i8, ModelError> {
        Ok(i8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, ModelError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, ModelError> {
        Ok(i16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, ModelError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, ModelError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn f32(&mut self) -> Result<f32, ModelError> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, ModelError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// A count that is at most `max`.
    pub(super) fn count(&mut self, what: &'static str, max: usize) -> Result<usize, ModelError> {
        let found = self.u64()?;
        match usize::try_from(found) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(ModelError::Limit {
                what,
                found,
                max: max as u64,
            }),
        }
    }

    /// A text of at most `max` bytes.
    pub(super) fn string(&mut self, what: &'static str, max: usize) -> Result<&'a str, ModelError> {
        let len = self.count(what, max)?;
        let start = self.position;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| ModelError::Gguf {
            offset: start,
            problem: "a text is not UTF-8",
        })
    }
}
