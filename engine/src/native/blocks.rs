//! Which pages of the key-value cache are whose. Has no tensor in it.
//!
//! Full pages whose tokens are known are shared, read-only, by all sequences
//! that begin with them, and stay findable when nobody uses them, until their
//! place is needed: the longest unused goes first. A sequence's last,
//! incomplete page is its own, so that nobody writes where another reads.

use std::collections::BTreeMap;

use ids::AdapterDigest;
use model::kernels::PAGE_TOKENS;

use super::prefix::{Link, PrefixCache};

/// A page of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageId(pub(super) usize);

/// The pages of one sequence; given back by [`BlockManager::release`].
#[derive(Debug)]
pub(super) struct PageTable {
    pages: Vec<PageId>,
    adapter: Option<AdapterDigest>,
    /// How many of the first pages are known to others.
    known: usize,
    /// What the next one to be known follows.
    after: Link,
}

impl PageTable {
    /// No pages yet, of a sequence computed with `adapter`.
    pub(super) fn new(adapter: Option<AdapterDigest>) -> Self {
        Self {
            pages: Vec::new(),
            adapter,
            known: 0,
            after: Link::Start(adapter),
        }
    }

    /// The pages, in the order of their positions.
    pub(super) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// The version that computes what the pages hold.
    pub(super) fn adapter(&self) -> Option<AdapterDigest> {
        self.adapter
    }
}

/// Hands out pages within a budget.
pub(super) struct BlockManager {
    pages_max: usize,
    /// How many tables hold each page that was ever used.
    users: Vec<u32>,
    /// Unused pages with known tokens, the longest unused first.
    idle: BTreeMap<u64, PageId>,
    /// Since when each of them is.
    idle_since: BTreeMap<PageId, u64>,
    /// Unused pages with nothing in them.
    free: Vec<PageId>,
    clock: u64,
    /// None: pages are never shared.
    prefixes: Option<PrefixCache>,
}

impl BlockManager {
    /// A manager of `pages_max` pages, at least one.
    pub(super) fn new(pages_max: usize, shares_prefixes: bool) -> Self {
        Self {
            pages_max: pages_max.max(1),
            users: Vec::new(),
            idle_since: BTreeMap::new(),
            idle: BTreeMap::new(),
            free: Vec::new(),
            clock: 0,
            prefixes: shares_prefixes.then(PrefixCache::default),
        }
    }

    /// Gives an empty table the known pages with which `tokens` begin, and says
    /// how many tokens they hold: never all, since the last one's logits are
    /// to be computed.
    pub(super) fn share(&mut self, table: &mut PageTable, tokens: &[u32]) -> usize {
        while let Some((page, next)) = self.known_page(table, tokens) {
            self.hold(page);
            table.pages.push(page);
            table.known += 1;
            table.after = next;
        }
        table.known * PAGE_TOKENS
    }

    fn known_page(&self, table: &PageTable, tokens: &[u32]) -> Option<(PageId, Link)> {
        let start = table.known * PAGE_TOKENS;
        let page = tokens.get(start..start + PAGE_TOKENS)?;
        let all_but_last = start + PAGE_TOKENS < tokens.len();
        let prefixes = self.prefixes.as_ref().filter(|_| all_but_last)?;
        prefixes.find(table.after, page)
    }

    /// Makes a table hold `tokens`; false, and nothing changed, if there are
    /// too few pages.
    pub(super) fn grow(&mut self, table: &mut PageTable, tokens: usize) -> bool {
        let missing = tokens
            .div_ceil(PAGE_TOKENS)
            .saturating_sub(table.pages.len());
        if missing > self.pages_max - self.used() {
            return false;
        }
        let pages: Vec<PageId> = (0..missing).map_while(|_| self.take()).collect();
        table.pages.extend(pages);
        true
    }

    /// An empty page, held once.
    fn take(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.users.len() < self.pages_max => {
                self.users.push(0);
                PageId(self.users.len() - 1)
            }
            None => self.evict()?,
        };
        self.hold(page);
        Some(page)
    }

    /// Empties the page that was unused for longest.
    fn evict(&mut self) -> Option<PageId> {
        let (_, page) = self.idle.pop_first()?;
        self.idle_since.remove(&page);
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.forget(page);
        }
        Some(page)
    }

    fn hold(&mut self, page: PageId) {
        if let Some(since) = self.idle_since.remove(&page) {
            self.idle.remove(&since);
        }
        self.users[page.0] += 1;
    }

    /// Makes the full pages of the first `tokens`, which are computed, known.
    /// A page that is known already takes the place of the table's own, whose
    /// numbers are the same.
    pub(super) fn publish(&mut self, table: &mut PageTable, tokens: &[u32]) {
        for tokens in tokens.chunks_exact(PAGE_TOKENS).skip(table.known) {
            let (Some(prefixes), Some(&own)) = (&mut self.prefixes, table.pages.get(table.known))
            else {
                return;
            };
            let next = match prefixes.find(table.after, tokens) {
                Some((page, next)) => {
                    self.hold(page);
                    table.pages[table.known] = page;
                    self.let_go(own);
                    Some(next)
                }
                None => prefixes.enter(table.after, tokens, own),
            };
            let Some(next) = next else { return };
            table.known += 1;
            table.after = next;
        }
    }

    /// Takes all pages of a table back.
    pub(super) fn release(&mut self, table: &mut PageTable) {
        // the last first, so that a page never goes before those that follow it
        for page in std::mem::take(&mut table.pages).into_iter().rev() {
            self.let_go(page);
        }
        *table = PageTable::new(table.adapter);
    }

    fn let_go(&mut self, page: PageId) {
        self.users[page.0] -= 1;
        if self.users[page.0] > 0 {
            return;
        }
        if self.prefixes.as_ref().is_some_and(|p| p.knows(page)) {
            self.clock += 1;
            self.idle_since.insert(page, self.clock);
            self.idle.insert(self.clock, page);
        } else {
            self.free.push(page);
        }
    }

    /// Pages in use.
    pub(super) fn used(&self) -> usize {
        self.users.len() - self.free.len() - self.idle.len()
    }

    /// Share of the pages in use.
    pub(super) fn usage(&self) -> f64 {
        self.used() as f64 / self.pages_max as f64
    }

    /// Whether pages are shared.
    pub(super) fn shares_prefixes(&self) -> bool {
        self.prefixes.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PageTable {
        PageTable::new(None)
    }

    /// `pages` pages of tokens, and one token more.
    fn tokens(start: u32, pages: usize) -> Vec<u32> {
        (start..).take(pages * PAGE_TOKENS + 1).collect()
    }

    /// A table that holds and knows all of `tokens`.
    fn computed(blocks: &mut BlockManager, tokens: &[u32]) -> PageTable {
        let mut table = table();
        blocks.share(&mut table, tokens);
        assert!(blocks.grow(&mut table, tokens.len()));
        blocks.publish(&mut table, tokens);
        table
    }

    fn shared(blocks: &mut BlockManager, tokens: &[u32]) -> usize {
        let mut found = table();
        let count = blocks.share(&mut found, tokens);
        blocks.release(&mut found);
        count
    }

    #[test]
    fn pages_are_bounded_and_used_again() {
        let mut blocks = BlockManager::new(4, true);
        let (mut a, mut b) = (table(), table());
        assert!(blocks.grow(&mut a, PAGE_TOKENS + 1));
        assert!(blocks.grow(&mut b, PAGE_TOKENS));
        assert_eq!((a.pages.len(), b.pages.len(), blocks.used()), (2, 1, 3));
        assert!(!blocks.grow(&mut b, 3 * PAGE_TOKENS + 1));
        assert_eq!((b.pages.len(), blocks.used()), (1, 3));
        assert!(blocks.grow(&mut b, 2 * PAGE_TOKENS));
        assert!((blocks.usage() - 1.0).abs() < 1e-9);
        blocks.release(&mut a);
        assert!(a.pages.is_empty() && blocks.used() == 2);
        assert!(blocks.grow(&mut b, 4 * PAGE_TOKENS));
        let mut ids: Vec<_> = b.pages.iter().map(|page| page.0).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3]);
    }

    #[test]
    fn known_pages_are_shared_but_for_the_last_token() {
        let mut blocks = BlockManager::new(10, true);
        let all = tokens(0, 2);
        let first = computed(&mut blocks, &all);
        assert_eq!(blocks.used(), 3);
        let mut second = table();
        assert_eq!(blocks.share(&mut second, &all), 2 * PAGE_TOKENS);
        assert_eq!(second.pages, first.pages[..2]);
        assert_eq!(shared(&mut blocks, &all[..2 * PAGE_TOKENS]), PAGE_TOKENS);
        assert!(blocks.grow(&mut second, all.len()));
        assert_ne!(second.pages[2], first.pages[2], "its last page is its own");
        assert_eq!(blocks.used(), 4);
        for mut table in [first, second] {
            blocks.release(&mut table);
        }
        assert_eq!(blocks.used(), 0);
        assert_eq!(shared(&mut blocks, &all), 2 * PAGE_TOKENS);
    }

    #[test]
    fn the_same_page_computed_twice_is_kept_once() {
        let mut blocks = BlockManager::new(10, true);
        let all = tokens(0, 2);
        let mut late = table();
        assert!(blocks.grow(&mut late, all.len()));
        let first = computed(&mut blocks, &all);
        assert_eq!(blocks.used(), 6);
        blocks.publish(&mut late, &all);
        assert_eq!(blocks.used(), 4);
        assert_eq!(late.pages[..2], first.pages[..2]);
    }

    #[test]
    fn the_longest_unused_goes_first_and_the_last_page_before_the_first() {
        let mut blocks = BlockManager::new(6, true);
        let (old, new) = (tokens(0, 2), tokens(100, 2));
        for all in [&old, &new] {
            let mut table = computed(&mut blocks, all);
            blocks.release(&mut table);
        }
        let mut other = table();
        // two pages are empty; a third takes the last of the older prefix
        assert!(blocks.grow(&mut other, 3 * PAGE_TOKENS));
        assert_eq!(shared(&mut blocks, &new), 2 * PAGE_TOKENS);
        assert_eq!(shared(&mut blocks, &old), PAGE_TOKENS);
        assert!(
            blocks.grow(&mut other, 6 * PAGE_TOKENS),
            "all but what is used can be had"
        );
        assert_eq!(shared(&mut blocks, &new) + shared(&mut blocks, &old), 0);
        assert!(!blocks.grow(&mut other, 6 * PAGE_TOKENS + 1));
    }

    #[test]
    fn a_page_in_use_is_never_evicted() {
        let mut blocks = BlockManager::new(4, true);
        let all = tokens(0, 2);
        let mut first = computed(&mut blocks, &all);
        let mut second = table();
        blocks.share(&mut second, &all);
        blocks.release(&mut first);
        assert_eq!(blocks.used(), 2);
        let mut other = table();
        assert!(!blocks.grow(&mut other, 3 * PAGE_TOKENS));
        assert!(blocks.grow(&mut other, 2 * PAGE_TOKENS));
        assert!(other.pages.iter().all(|page| !second.pages.contains(page)));
    }

    #[test]
    fn without_sharing_nothing_is_known() {
        let mut blocks = BlockManager::new(10, false);
        let all = tokens(0, 2);
        let mut first = computed(&mut blocks, &all);
        assert_eq!(shared(&mut blocks, &all), 0);
        blocks.release(&mut first);
        assert_eq!((blocks.used(), blocks.idle.len()), (0, 0));
    }
}
