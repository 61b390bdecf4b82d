//! The storage behind a matrix: a part of a mapped file, or memory.

use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;

/// Immutable bytes that many matrices may share. Cloning is cheap.
#[derive(Clone)]
pub struct Bytes(Storage);

#[derive(Clone)]
enum Storage {
    Mapped(Arc<Mmap>, Range<usize>),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// A part of a mapped file; `None` where the file is shorter.
    #[must_use]
    pub fn mapped(file: Arc<Mmap>, range: Range<usize>) -> Option<Self> {
        file.get(range.clone())?;
        Some(Self(Storage::Mapped(file, range)))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Storage::Owned(bytes.into()))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Mapped(file, range) => file.get(range.clone()).unwrap_or_default(),
            Storage::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.0 {
            Storage::Mapped(..) => "mapped",
            Storage::Owned(_) => "owned",
        };
        write!(f, "Bytes({} {kind})", self.len())
    }
}
