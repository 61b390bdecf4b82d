//! Which pages of the key-value cache are whose. Has no tensor in it.

use model::kernels::PAGE_TOKENS;

/// A page of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PageId(pub(super) usize);

/// The pages of one sequence; given back by [`BlockManager::release`].
pub(super) type PageTable = Vec<PageId>;

/// Hands out pages within a budget.
pub(super) struct BlockManager {
    pages_max: usize,
    /// Pages with a lower number were in use before.
    fresh: usize,
    free: Vec<PageId>,
}

impl BlockManager {
    /// A manager of as many whole pages as `tokens_max` fills, at least one.
    pub(super) fn new(tokens_max: usize) -> Self {
        Self {
            pages_max: (tokens_max / PAGE_TOKENS).max(1),
            fresh: 0,
            free: Vec::new(),
        }
    }

    /// Makes a table hold `tokens`; false, and nothing changed, if there are
    /// too few pages.
    pub(super) fn grow(&mut self, table: &mut PageTable, tokens: usize) -> bool {
        let missing = tokens.div_ceil(PAGE_TOKENS).saturating_sub(table.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let page = self.free.pop().unwrap_or_else(|| {
                self.fresh += 1;
                PageId(self.fresh - 1)
            });
            table.push(page);
        }
        true
    }

    /// Takes all pages of a table back.
    pub(super) fn release(&mut self, table: &mut PageTable) {
        self.free.append(table);
    }

    fn available(&self) -> usize {
        self.pages_max - self.used()
    }

    /// Pages in use.
    pub(super) fn used(&self) -> usize {
        self.fresh - self.free.len()
    }

    /// Share of the pages in use.
    pub(super) fn usage(&self) -> f64 {
        self.used() as f64 / self.pages_max as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_and_used_again() {
        let mut blocks = BlockManager::new(4 * PAGE_TOKENS + 3);
        let (mut a, mut b) = (PageTable::new(), PageTable::new());
        assert!(blocks.grow(&mut a, PAGE_TOKENS + 1));
        assert!(blocks.grow(&mut b, PAGE_TOKENS));
        assert_eq!((a.len(), b.len(), blocks.used()), (2, 1, 3));
        assert!(!blocks.grow(&mut b, 3 * PAGE_TOKENS + 1));
        assert_eq!((b.len(), blocks.used()), (1, 3));
        assert!(blocks.grow(&mut b, 2 * PAGE_TOKENS));
        assert!((blocks.usage() - 1.0).abs() < 1e-9);
        blocks.release(&mut a);
        assert!(a.is_empty() && blocks.used() == 2);
        assert!(blocks.grow(&mut b, 4 * PAGE_TOKENS));
        let mut ids: Vec<_> = b.iter().map(|page| page.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3]);
    }
}
