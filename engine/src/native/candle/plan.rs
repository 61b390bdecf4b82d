//! What of a batch is the same for every layer: which rows are whose, where
//! keys are stored and found, and what each query sees.

use candle_core::Tensor;
use model::ModelConfig;
use model::kernels::PAGE_TOKENS;

use super::cache::{Cache, Slots};
use super::{Place, Result, index};
use crate::native::blocks::PageId;
use crate::native::forward::{Chunk, Group, groups};

/// Pages that are read together at most, but for those of a single sequence.
/// Bounds the memory of a layer's attention.
const PAGES_AT_ONCE: usize = 1024;

/// A batch.
pub(super) struct Plan<'a> {
    /// `[n]`
    pub(super) tokens: Tensor,
    /// `[n]`: each row's position in its sequence.
    pub(super) positions: Tensor,
    pub(super) slots: Slots,
    pub(super) adapters: Vec<Group<'a>>,
    /// Rows, as attention takes them and puts them back; none if they are in
    /// that order.
    pub(super) order: Option<Order>,
    /// They follow one another in the rows as attention takes them.
    pub(super) attention: Vec<Sequences>,
    /// The rows whose logits are wanted, if there are any.
    pub(super) wanted: Option<Tensor>,
}

/// A permutation of rows, and the one back.
pub(super) struct Order {
    pub(super) take: Tensor,
    pub(super) restore: Tensor,
}

/// Sequences with as many new tokens each, which attention computes together.
pub(super) struct Sequences {
    pub(super) sequences: usize,
    /// New tokens of each.
    pub(super) queries: usize,
    /// For layers that see all positions.
    pub(super) global: Seen,
    /// For layers with a sliding window, if there are such layers.
    pub(super) windowed: Option<Seen>,
}

/// What queries see.
pub(super) struct Seen {
    /// `[sequences · pages]`
    pub(super) pages: Tensor,
    /// `[1, sequences, queries, 1, positions]`: zero or minus infinity.
    pub(super) mask: Tensor,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        place: &Place,
        config: &ModelConfig,
        cache: &Cache,
        chunks: &[Chunk<'a>],
    ) -> Result<Self> {
        let (mut tokens, mut positions, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in chunks {
            for (i, token) in chunk.tokens.iter().enumerate() {
                if i + chunk.logits >= chunk.tokens.len() {
                    wanted.push(index(tokens.len())?);
                }
                tokens.push(*token);
                positions.push(index(chunk.first_position + i)?);
            }
        }
        let tensor = |numbers: Vec<u32>| {
            let len = numbers.len();
            Tensor::from_vec(numbers, len, &place.device)
        };
        let together = together(chunks);
        Ok(Self {
            tokens: tensor(tokens)?,
            positions: tensor(positions)?,
            slots: Slots::new(place, config, chunks)?,
            adapters: groups(chunks),
            order: Order::new(place, chunks, &together)?,
            attention: together
                .iter()
                .map(|members| {
                    let chunks: Vec<&Chunk<'_>> = members.iter().map(|&i| &chunks[i]).collect();
                    Sequences::new(place, config, cache.zero_page(), &chunks)
                })
                .collect::<Result<_>>()?,
            wanted: match wanted.len() {
                0 => None,
                _ => Some(tensor(wanted)?),
            },
        })
    }
}

/// Which chunks attention computes together: a prompt's alone, and single
/// tokens with others whose sequences are about as long.
pub(super) fn together(chunks: &[Chunk<'_>]) -> Vec<Vec<usize>> {
    let (mut single, mut together) = (Vec::new(), Vec::new());
    for (i, chunk) in chunks.iter().enumerate() {
        match chunk.tokens.len() {
            1 => single.push(i),
            _ => together.push(vec![i]),
        }
    }
    let pages = |&i: &usize| chunks[i].first_position / PAGE_TOKENS + 1;
    let total: usize = single.len() * single.iter().map(pages).max().unwrap_or(0);
    if total > PAGES_AT_ONCE {
        single.sort_by_key(pages);
    }
    let mut batch: Vec<usize> = Vec::new();
    for i in single {
        let longest = batch.iter().chain([&i]).map(pages).max().unwrap_or(0);
        if !batch.is_empty() && (batch.len() + 1) * longest > PAGES_AT_ONCE {
            together.push(std::mem::take(&mut batch));
        }
        batch.push(i);
    }
    if !batch.is_empty() {
        together.push(batch);
    }
    together
}

impl Order {
    fn new(place: &Place, chunks: &[Chunk<'_>], together: &[Vec<usize>]) -> Result<Option<Self>> {
        let mut first_rows = Vec::with_capacity(chunks.len());
        let mut rows = 0;
        for chunk in chunks {
            first_rows.push(rows);
            rows += chunk.tokens.len();
        }
        let (mut take, mut restore) = (Vec::with_capacity(rows), vec![0; rows]);
        for &i in together.iter().flatten() {
            for row in (first_rows[i]..).take(chunks[i].tokens.len()) {
                restore[row] = index(take.len())?;
                take.push(index(row)?);
            }
        }
        if take.is_sorted() {
            return Ok(None);
        }
        Ok(Some(Self {
            take: Tensor::from_vec(take, rows, &place.device)?,
            restore: Tensor::from_vec(restore, rows, &place.device)?,
        }))
    }
}

impl Sequences {
    fn new(
        place: &Place,
        config: &ModelConfig,
        zero_page: PageId,
        chunks: &[&Chunk<'_>],
    ) -> Result<Self> {
        let seen = |window| Seen::new(place, zero_page, chunks, window);
        Ok(Self {
            sequences: chunks.len(),
            queries: chunks.first().map_or(0, |chunk| chunk.tokens.len()),
            global: seen(usize::MAX)?,
            windowed: config
                .window
                .as_ref()
                .map(|window| seen(window.tokens))
                .transpose()?,
        })
    }
}

impl Seen {
    fn new(place: &Place, zero_page: PageId, chunks: &[&Chunk<'_>], window: usize) -> Result<Self> {
        // what comes before the first query's window is not read
        let first_page = |chunk: &Chunk<'_>| {
            let first_position = (chunk.first_position + 1).saturating_sub(window);
            first_position / PAGE_TOKENS
        };
        let end_page =
            |chunk: &Chunk<'_>| (chunk.first_position + chunk.tokens.len()).div_ceil(PAGE_TOKENS);
        let longest = chunks
            .iter()
            .map(|chunk| end_page(chunk) - first_page(chunk));
        let pages_each = longest.max().unwrap_or(0);
        let queries = chunks.first().map_or(0, |chunk| chunk.tokens.len());
        let positions = pages_each * PAGE_TOKENS;
        let mut pages = Vec::with_capacity(chunks.len() * pages_each);
        let mut mask = Vec::with_capacity(chunks.len() * queries * positions);
        for chunk in chunks {
            let own = &chunk.pages[first_page(chunk)..end_page(chunk)];
            let padding = std::iter::repeat(&zero_page);
            for page in own.iter().chain(padding).take(pages_each) {
                pages.push(index(page.0)?);
            }
            let first_position = first_page(chunk) * PAGE_TOKENS;
            for query in (chunk.first_position..).take(queries) {
                mask.extend((first_position..).take(positions).map(|position| {
                    let sees = position <= query && query - position < window;
                    if sees { 0.0 } else { f32::NEG_INFINITY }
                }));
            }
        }
        let (count, shape) = (pages.len(), (1, chunks.len(), queries, 1, positions));
        Ok(Self {
            pages: Tensor::from_vec(pages, count, &place.device)?,
            mask: Tensor::from_vec(mask, shape, &place.device)?,
        })
    }
}
