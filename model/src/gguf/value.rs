//! Metadata values of a GGUF file.

use super::cursor::Cursor;
use crate::ModelError;

/// The longest text, in bytes; chat templates are the longest in practice.
const STRING_BYTES_MAX: usize = 1 << 20;
/// The most elements that all arrays of one file may have together.
pub(super) const ARRAY_ELEMENTS_MAX: usize = 1 << 23;
/// How deep arrays may lie in arrays.
const ARRAY_DEPTH_MAX: u32 = 2;

/// A metadata value. The widths of integers and floats are not kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer.
    Unsigned(u64),
    /// A signed integer.
    Signed(i64),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(Box<str>),
    /// Several values of one type.
    Array(Vec<Value>),
}

impl Value {
    /// The value as a non-negative integer.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value as a text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a floating-point number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as a truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as a list.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}

/// Reads values and counts the array elements of the whole file.
pub(super) struct ValueReader {
    elements_left: usize,
}

impl ValueReader {
    pub(super) fn new() -> Self {
        Self {
            elements_left: ARRAY_ELEMENTS_MAX,
        }
    }

    /// A type number and the value that follows it.
    pub(super) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<Value, ModelError> {
        let kind = cursor.u32()?;
        self.read_kind(cursor, kind, 0)
    }

    fn read_kind(
        &mut self,
        cursor: &mut Cursor<'_>,
        kind: u32,
        depth: u32,
    ) -> Result<Value, ModelError> {
        Ok(match kind {
            0 => Value::Unsigned(cursor.u8()?.into()),
            1 => Value::Signed(cursor.i8()?.into()),
            2 => Value::Unsigned(cursor.u16()?.into()),
            3 => Value::Signed(cursor.i16()?.into()),
            4 => Value::Unsigned(cursor.u32()?.into()),
            5 => Value::Signed(cursor.i32()?.into()),
            6 => Value::Float(cursor.f32()?.into()),
            7 => match cursor.u8()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(cursor.problem("a truth value is neither 0 nor 1")),
            },
            8 => Value::String(
                cursor
                    .string("length of a metadata text", STRING_BYTES_MAX)?
                    .into(),
            ),
            9 => self.read_array(cursor, depth)?,
            10 => Value::Unsigned(cursor.u64()?),
            11 => Value::Signed(cursor.i64()?),
            12 => Value::Float(cursor.f64()?),
            _ => return Err(cursor.problem("an unknown metadata type")),
        })
    }

    fn read_array(&mut self, cursor: &mut Cursor<'_>, depth: u32) -> Result<Value, ModelError> {
        if depth == ARRAY_DEPTH_MAX {
            return Err(cursor.problem("arrays lie too deep in each other"));
        }
        let kind = cursor.u32()?;
        let count = cursor.count("number of metadata array elements", self.elements_left)?;
        self.elements_left -= count;
        // The count is only believed as far as the file's bytes reach.
        let mut values = Vec::with_capacity(count.min(cursor.remaining()));
        for _ in 0..count {
            values.push(self.read_kind(cursor, kind, depth + 1)?);
        }
        Ok(Value::Array(values))
    }
}
