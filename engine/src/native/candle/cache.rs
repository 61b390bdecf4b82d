//! The key-value cache: for each layer, all pages in one tensor.
//!
//! Memory is taken at the start, since a device that others use too has no
//! promise of more. One page beyond those handed out stays zero: where
//! sequences of different lengths are read together, the shorter ones read it.

use candle_core::Tensor;
use model::ModelConfig;
use model::kernels::PAGE_TOKENS;

use super::{Place, Result, index};
use crate::native::blocks::PageId;
use crate::native::forward::Chunk;

/// Keys and values by page.
pub(super) struct Cache {
    /// For each layer `[kv_heads, slots, head_dim]`, a slot for each position of
    /// each page.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    pages: usize,
    page_bytes: u64,
}

/// Where the rows of a batch are stored.
pub(super) struct Slots {
    /// `[kv_heads, n + unwritten, head_dim]`: the slot of each element.
    ids: Tensor,
    /// `[kv_heads, unwritten, head_dim]`: zeros for the slots of new pages behind
    /// the sequences' ends, if there are any. What a page's last user left there
    /// has no weight in attention, but no weight times infinity is no number.
    zeros: Option<Tensor>,
}

impl Slots {
    pub(super) fn new(place: &Place, config: &ModelConfig, chunks: &[Chunk<'_>]) -> Result<Self> {
        let (mut rows, mut unwritten) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let slot = |position: usize| {
                let page = chunk.pages[position / PAGE_TOKENS];
                index(page.0 * PAGE_TOKENS + position % PAGE_TOKENS)
            };
            let (first, end) = (
                chunk.first_position,
                chunk.first_position + chunk.tokens.len(),
            );
            for position in first..end {
                rows.push(slot(position)?);
            }
            let last_page = (end - 1) / PAGE_TOKENS * PAGE_TOKENS;
            if last_page >= first {
                for position in end..last_page + PAGE_TOKENS {
                    unwritten.push(slot(position)?);
                }
            }
        }
        let shape = |slots| (config.kv_head_count, slots, config.head_dim);
        let zeros = match unwritten.len() {
            0 => None,
            slots => Some(Tensor::zeros(shape(slots), place.dtype, &place.device)?),
        };
        rows.append(&mut unwritten);
        let slots = rows.len();
        let ids = Tensor::from_vec(rows, (1, slots, 1), &place.device)?
            .broadcast_as(shape(slots))?
            .contiguous()?;
        Ok(Self { ids, zeros })
    }
}

impl Cache {
    pub(super) fn new(place: &Place, config: &ModelConfig, pages: usize) -> Result<Self> {
        let slots = (pages + 1) * PAGE_TOKENS;
        let _ = index(slots)?;
        let shape = (config.kv_head_count, slots, config.head_dim);
        let layers = || {
            (0..config.layer_count)
                .map(|_| Tensor::zeros(shape, place.dtype, &place.device))
                .collect::<Result<_>>()
        };
        Ok(Self {
            keys: layers()?,
            values: layers()?,
            pages,
            page_bytes: place.page_bytes(config),
        })
    }

    pub(super) fn byte_len(&self) -> u64 {
        self.pages as u64 * self.page_bytes
    }

    /// The page that stays zero.
    pub(super) fn zero_page(&self) -> PageId {
        PageId(self.pages)
    }

    /// Stores a batch's keys and values of one layer, `[n, kv_heads, head_dim]`
    /// each.
    pub(super) fn write(
        &self,
        layer: usize,
        slots: &Slots,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        for (cache, rows) in [(&self.keys, keys), (&self.values, values)] {
            let rows = rows.transpose(0, 1)?.contiguous()?;
            let rows = match &slots.zeros {
                Some(zeros) => Tensor::cat(&[&rows, zeros], 1)?,
                None => rows,
            };
            cache[layer].scatter_set(&slots.ids, &rows, 1)?;
        }
        Ok(())
    }

    /// The keys and the values of some pages of one layer, the same number for
    /// each sequence: `[kv_heads · sequences, positions, head_dim]` each.
    pub(super) fn read(
        &self,
        layer: usize,
        pages: &Tensor,
        sequences: usize,
    ) -> Result<(Tensor, Tensor)> {
        let gather = |cache: &Tensor| {
            let (heads, slots, dim) = cache.dims3()?;
            let positions = pages.elem_count() / sequences * PAGE_TOKENS;
            cache
                .reshape((heads, slots / PAGE_TOKENS, PAGE_TOKENS * dim))?
                .index_select(pages, 1)?
                .reshape((heads * sequences, positions, dim))
        };
        Ok((gather(&self.keys[layer])?, gather(&self.values[layer])?))
    }
}
