//! Memory in large pages, for what every step reads from end to end.
//!
//! Decoding streams through tens of megabytes a token. On pages of 4 KiB the
//! hardware stops prefetching at the end of each, and looks up the next; one
//! core then reads half as fast as on pages of 2 MiB. So the parts of a model, or
//! of an adapter, are laid one after the other in one block that the system is
//! asked to back with large pages. Where it does not, the block is as good as
//! any other memory.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use half::f16;
use memmap2::MmapMut;

use super::gemm::PanelRow;
use crate::quant::{GROUP, Line};

/// Bytes of a large page.
const LARGE_PAGE: usize = 2 << 20;
/// What every slice's address is a multiple of.
pub(super) const ALIGN: usize = size_of::<Line>();

/// Types of which any bits are a value, no larger in alignment than a line.
///
/// # Safety
/// That must hold.
pub(crate) unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: integers and floats in arrays.
unsafe impl Plain for Line {}
// SAFETY: as above.
unsafe impl Plain for PanelRow {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for [u16; GROUP] {}
// SAFETY: as above.
unsafe impl Plain for [i8; GROUP] {}
// SAFETY: 16 bits, all of them a number.
unsafe impl Plain for f16 {}

/// A stretch of memory that will be read: no more than an address and a length, which
/// may outlive what is there, since fetching is a hint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    bytes: usize,
}

impl Span {
    /// Where values lie.
    #[inline(always)]
    pub(crate) fn of<T: Plain>(values: &[T]) -> Self {
        Self {
            start: values.as_ptr().addr(),
            bytes: size_of_val(values),
        }
    }

    /// Where it begins, and how long it is in bytes.
    pub(super) fn parts(self) -> (usize, usize) {
        (self.start, self.bytes)
    }

    /// One of such parts.
    pub(super) fn from_parts((start, bytes): (usize, usize)) -> Self {
        Self { start, bytes }
    }

    /// How long it is.
    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// With another one, if that begins where it ends.
    pub(super) fn with_next(self, next: Self) -> Self {
        let follows = self.start + self.bytes == next.start;
        Self {
            bytes: self.bytes + if follows { next.bytes } else { 0 },
            ..self
        }
    }

    /// The first bytes, no more than there are, and the rest.
    pub(super) fn split_at(self, bytes: usize) -> (Self, Self) {
        let bytes = bytes.min(self.bytes);
        let of = |start, bytes| Self { start, bytes };
        (
            of(self.start, bytes),
            of(self.start + bytes, self.bytes - bytes),
        )
    }

    /// Asks the CPU to bring it into its second cache, where it can be asked.
    #[inline(always)]
    pub(super) fn fetch(self) {
        #[cfg(target_arch = "x86_64")]
        for at in (0..self.bytes).step_by(ALIGN) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            let at = ptr::without_provenance(self.start + at);
            // SAFETY: a prefetch never faults, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at) };
        }
    }
}

/// Hands out slices of one block, one after the other.
pub struct Arena {
    block: Arc<Block>,
    used: usize,
    held: usize,
}

struct Block {
    start: NonNull<u8>,
    len: usize,
    memory: Memory,
}

/// What keeps a block's memory.
enum Memory {
    Mapped { _map: MmapMut },
    Heap { _lines: Vec<Line> },
}

// SAFETY: a block is plain memory; who may write where is the slices' matter.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Zeros.
    fn new(len: usize) -> Self {
        Self::mapped(len).unwrap_or_else(|| {
            let mut lines = vec![Line([0; ALIGN]); len.div_ceil(ALIGN)];
            Self {
                start: NonNull::from(lines.as_mut_slice()).cast(),
                len,
                memory: Memory::Heap { _lines: lines },
            }
        })
    }

    /// Zeros in large pages; `None` where a large page is more than is needed,
    /// or the system gives no mapping.
    fn mapped(len: usize) -> Option<Self> {
        if len < LARGE_PAGE {
            return None;
        }
        let mut map = MmapMut::map_anon(len.checked_add(LARGE_PAGE)?).ok()?;
        let skipped = map.as_ptr().align_offset(LARGE_PAGE);
        // asked, not demanded
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, skipped, len);
        let start = NonNull::from(map.get_mut(skipped..skipped + len)?).cast();
        Some(Self {
            start,
            len,
            memory: Memory::Mapped { _map: map },
        })
    }

    /// Bytes that the system may take for it: a large page is taken whole.
    fn held_bytes(&self) -> usize {
        match self.memory {
            Memory::Mapped { .. } => self.len.next_multiple_of(LARGE_PAGE),
            Memory::Heap { .. } => self.len.next_multiple_of(ALIGN),
        }
    }
}

impl Arena {
    /// Room for so many bytes. What does not fit gets memory of its own.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let block = Block::new(bytes);
        Self {
            held: block.held_bytes(),
            block: Arc::new(block),
            used: 0,
        }
    }

    /// Bytes of memory that it and its slices take: what was asked for, and what is
    /// not used of the last large page.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Bytes of the arena that a slice takes.
    pub(crate) fn slice_bytes<T>(len: usize) -> usize {
        len.saturating_mul(size_of::<T>()).next_multiple_of(ALIGN)
    }

    /// `len` zeros.
    pub(crate) fn zeroed<T: Plain>(&mut self, len: usize) -> Slice<T> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = Self::slice_bytes::<T>(len);
        let (block, at) = if bytes <= self.block.len - self.used {
            self.used += bytes;
            (Arc::clone(&self.block), self.used - bytes)
        } else {
            let block = Block::new(bytes);
            self.held += block.held_bytes();
            (Arc::new(block), 0)
        };
        // SAFETY: within the block, whose start is aligned, at a multiple of it.
        let start = unsafe { block.start.add(at) }.cast();
        Slice {
            start,
            len,
            _block: block,
            owns: PhantomData,
        }
    }
}

/// A part of a block that nothing else uses.
pub(crate) struct Slice<T> {
    start: NonNull<T>,
    len: usize,
    _block: Arc<Block>,
    owns: PhantomData<T>,
}

// SAFETY: it is the only way to its part of the block.
unsafe impl<T: Plain> Send for Slice<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Slice<T> {}

impl<T> Slice<T> {
    /// Bytes of memory.
    pub(crate) fn byte_len(&self) -> usize {
        Arena::slice_bytes::<T>(self.len)
    }
}

impl<T: Plain> Deref for Slice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: initialized (to zeros at least), and lives as long as the block.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Slice<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and its only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_in_the_pages_that_are_taken() {
        assert_eq!(Arena::with_capacity(1000).held_bytes(), 1024);
        let mut arena = Arena::with_capacity(LARGE_PAGE + 1);
        assert_eq!(arena.held_bytes(), 2 * LARGE_PAGE);
        let _within: Slice<Line> = arena.zeroed(LARGE_PAGE / ALIGN);
        assert_eq!(arena.held_bytes(), 2 * LARGE_PAGE);
        let _beyond: Slice<Line> = arena.zeroed(2);
        assert_eq!(arena.held_bytes(), 2 * LARGE_PAGE + 2 * ALIGN);
    }

    #[test]
    fn slices_are_zeros_of_their_own_and_outlive_the_arena() {
        for capacity in [0, 1000, 3 << 20] {
            let mut arena = Arena::with_capacity(capacity);
            let mut slices: Vec<Slice<u16>> = (0..9).map(|i| arena.zeroed(i * 100_000)).collect();
            let mut lines: Slice<Line> = arena.zeroed(3);
            drop(arena);
            lines.fill(Line([255; 64]));
            for (i, slice) in slices.iter_mut().enumerate() {
                assert!(slice.len() == i * 100_000 && slice.iter().all(|v| *v == 0));
                assert!(slice.as_ptr().addr().is_multiple_of(ALIGN));
                slice.fill(u16::try_from(i).unwrap_or_default());
            }
            for (i, slice) in slices.iter().enumerate() {
                assert!(slice.iter().all(|v| usize::from(*v) == i));
            }
            assert!(lines.iter().all(|line| line.0 == [255; 64]));
        }
    }
}
