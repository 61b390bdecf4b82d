//! Which full pages hold the keys and values of which tokens, so that a later
//! sequence with the same beginning can use them. Has no tensor in it.
//!
//! A page is found by what comes before it and by its own tokens, both compared
//! whole: no hash decides. What comes before the first page is the adapter
//! version, so that no version ever finds another's pages, whatever names they
//! share. Does not know who uses a page.

use std::collections::HashMap;

use ids::AdapterDigest;
use model::kernels::PAGE_TOKENS;

use super::blocks::PageId;

/// What a page follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Link {
    /// Nothing: it is a sequence's first page, computed with this version.
    Start(Option<AdapterDigest>),
    /// The page that was entered under this number, which is never used again:
    /// another page in the same place is not mistaken for it.
    Page(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    after: Link,
    tokens: [u32; PAGE_TOKENS],
}

/// The pages whose contents are known.
#[derive(Default)]
pub(super) struct PrefixCache {
    pages: HashMap<Key, (PageId, u64)>,
    keys: HashMap<PageId, Key>,
    entered: u64,
}

impl Key {
    /// None unless `tokens` fill a page.
    fn new(after: Link, tokens: &[u32]) -> Option<Self> {
        let tokens = tokens.try_into().ok()?;
        Some(Self { after, tokens })
    }
}

impl PrefixCache {
    /// The page that holds `tokens` after `after`, and what its successor follows.
    pub(super) fn find(&self, after: Link, tokens: &[u32]) -> Option<(PageId, Link)> {
        let (page, number) = self.pages.get(&Key::new(after, tokens)?)?;
        Some((*page, Link::Page(*number)))
    }

    /// Enters a page that [`Self::find`] does not know; what its successor follows.
    pub(super) fn enter(&mut self, after: Link, tokens: &[u32], page: PageId) -> Option<Link> {
        let key = Key::new(after, tokens)?;
        self.entered += 1;
        self.pages.insert(key.clone(), (page, self.entered));
        self.keys.insert(page, key);
        Some(Link::Page(self.entered))
    }

    /// Forgets a page. What follows it is found no more.
    pub(super) fn forget(&mut self, page: PageId) {
        if let Some(key) = self.keys.remove(&page) {
            self.pages.remove(&key);
        }
    }

    /// Whether a page's contents are known.
    pub(super) fn knows(&self, page: PageId) -> bool {
        self.keys.contains_key(&page)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ids::Sha256Digest;

    use super::*;

    fn version(name: &str) -> Link {
        Link::Start(Some(AdapterDigest(Sha256Digest::of(name.as_bytes()))))
    }

    #[test]
    fn a_page_is_found_by_its_version_its_predecessors_and_its_tokens_only() {
        let mut cache = PrefixCache::default();
        let (one, two) = ([1; PAGE_TOKENS], [2; PAGE_TOKENS]);
        let after_one = cache.enter(version("a"), &one, PageId(0)).unwrap();
        cache.enter(after_one, &two, PageId(1)).unwrap();
        assert_eq!(cache.find(version("a"), &one), Some((PageId(0), after_one)));
        assert_eq!(cache.find(after_one, &two).unwrap().0, PageId(1));
        for (after, tokens) in [
            (version("b"), &one[..]),
            (Link::Start(None), &one[..]),
            (version("a"), &two[..]),
            (after_one, &one[..]),
            (version("a"), &one[..PAGE_TOKENS - 1]),
        ] {
            assert_eq!(cache.find(after, tokens), None, "{after:?}");
        }
    }

    #[test]
    fn what_follows_a_forgotten_page_is_not_found_after_its_successor_in_place() {
        let mut cache = PrefixCache::default();
        let (one, two) = ([1; PAGE_TOKENS], [2; PAGE_TOKENS]);
        let after_one = cache.enter(version("a"), &one, PageId(0)).unwrap();
        cache.enter(after_one, &two, PageId(1)).unwrap();
        cache.forget(PageId(0));
        assert!(!cache.knows(PageId(0)) && cache.knows(PageId(1)));
        assert_eq!(cache.find(version("a"), &one), None);
        let other = cache.enter(version("b"), &one, PageId(0)).unwrap();
        assert_ne!(other, after_one);
        assert_eq!(cache.find(other, &two), None);
    }
}
