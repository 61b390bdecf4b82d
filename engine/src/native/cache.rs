//! The memory of the key-value cache's pages, taken as they are first used.

use model::kernels::{Arena, KvLayout, KvPage, PAGE_TOKENS};

use super::blocks::PageId;

/// Pages whose memory is one block, in large pages of the system: attention
/// reads as much of it in a step as of the weights.
const PAGES_OF_BLOCK: usize = 8;

/// Pages by number.
pub(super) struct KvCache {
    layout: KvLayout,
    pages: Vec<KvPage>,
    /// The memory of the pages up to the next multiple of [`PAGES_OF_BLOCK`].
    block: Arena,
}

impl KvCache {
    pub(super) fn new(layout: KvLayout) -> Self {
        Self {
            layout,
            pages: Vec::new(),
            block: Arena::with_capacity(0),
        }
    }

    pub(super) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// Makes sure that pages have memory.
    pub(super) fn touch(&mut self, pages: &[PageId]) {
        let end = pages.iter().map(|page| page.0 + 1).max().unwrap_or(0);
        while self.pages.len() < end {
            if self.pages.len().is_multiple_of(PAGES_OF_BLOCK) {
                self.block = Arena::with_capacity(PAGES_OF_BLOCK * self.layout.page_bytes());
            }
            let page = KvPage::new(self.layout, &mut self.block);
            self.pages.push(page);
        }
    }

    /// Bytes of the pages that have memory.
    pub(super) fn byte_len(&self) -> u64 {
        (self.pages.len() * self.layout.page_bytes()) as u64
    }

    pub(super) fn page(&self, id: PageId) -> &KvPage {
        &self.pages[id.0]
    }

    /// Stores consecutive positions of one layer, `[n, kv_heads · head_dim]`.
    pub(super) fn write(
        &mut self,
        layer: usize,
        table: &[PageId],
        first_position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let width = self.layout.kv_heads * self.layout.head_dim;
        let rows = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for (position, (keys, values)) in (first_position..).zip(rows) {
            let page = table[position / PAGE_TOKENS];
            self.pages[page.0].write(layer, position % PAGE_TOKENS, keys, values);
        }
    }
}
