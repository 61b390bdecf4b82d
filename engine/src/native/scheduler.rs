//! Which tokens of which sequences the next step computes. Has no tensor in it.
//!
//! Every running sequence that only lacks its last token gets it; what is left
//! of a step's budget goes to prompts, first come first served. When pages run
//! out, the youngest sequence loses its own and starts over later: its draws
//! are counters and its numbers do not depend on chunks, so its text stays.

use std::collections::VecDeque;

use model::kernels::PAGE_TOKENS;

use super::blocks::BlockManager;
use super::sequence::Sequence;

/// How many waiting sequences are looked at beyond one whose beginning is
/// being computed for another.
const HELD_MAX: usize = 16;

/// Running and waiting sequences, both in the order of their arrival.
pub(super) struct Scheduler {
    pub(super) running: Vec<Sequence>,
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) counters: Counters,
    blocks: BlockManager,
    running_max: usize,
    prefill_tokens_max: usize,
}

/// Part of a step: the next `count` tokens of a running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    /// Place in [`Scheduler::running`].
    pub(super) index: usize,
    pub(super) count: usize,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    /// Prompt tokens of sequences when they first ran.
    pub(super) prefix_queries: u64,
    /// Those of them that were in the cache.
    pub(super) prefix_hits: u64,
    /// Sequences that lost their pages to an older one.
    pub(super) preemptions: u64,
}

impl Scheduler {
    pub(super) fn new(blocks: BlockManager, running_max: usize, prefill_tokens_max: usize) -> Self {
        Self {
            running: Vec::new(),
            waiting: VecDeque::new(),
            counters: Counters::default(),
            blocks,
            running_max: running_max.max(1),
            prefill_tokens_max: prefill_tokens_max.max(1),
        }
    }

    /// Plans a step, and makes sure of its pages.
    pub(super) fn schedule(&mut self) -> Vec<Planned> {
        self.make_room();
        self.admit();
        let mut budget = self.prefill_tokens_max;
        let mut plan = Vec::new();
        for (index, sequence) in self.running.iter().enumerate() {
            let count = sequence.take(&mut budget);
            if count > 0 {
                plan.push(Planned { index, count });
            }
        }
        // neighbours with the same adapter are computed together
        plan.sort_by_key(|planned| self.running[planned.index].pages.adapter());
        plan
    }

    /// Gets pages for every running sequence's tokens, if need be from younger
    /// ones, which wait again.
    fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let tokens = sequence.tokens.len();
            if self.blocks.grow(&mut sequence.pages, tokens) {
                index += 1;
            } else if let Some(mut youngest) = self.running.pop() {
                self.blocks.release(&mut youngest.pages);
                youngest.computed = 0;
                self.counters.preemptions += 1;
                let order = youngest.order();
                let place = self.waiting.partition_point(|other| other.order() < order);
                self.waiting.insert(place, youngest);
            }
        }
    }

    /// Lets waiting sequences run while there are places and pages for all of
    /// their tokens, in order. One whose next page is being computed for a
    /// running sequence waits for that instead of computing it too.
    fn admit(&mut self) {
        let mut held = 0;
        while self.running.len() < self.running_max && held <= HELD_MAX {
            let Some(sequence) = self.waiting.get_mut(held) else {
                return;
            };
            let shared = self.blocks.share(&mut sequence.pages, &sequence.tokens);
            let in_work = self.blocks.shares_prefixes()
                && self
                    .running
                    .iter()
                    .any(|other| other.computes(sequence, shared));
            let fits = !in_work && self.blocks.grow(&mut sequence.pages, sequence.tokens.len());
            if !fits {
                self.blocks.release(&mut sequence.pages);
                if !in_work {
                    return;
                }
                held += 1;
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(held) else {
                return;
            };
            sequence.computed = shared;
            self.counters.first_run(&mut sequence, shared);
            let order = sequence.order();
            let place = self.running.partition_point(|other| other.order() < order);
            self.running.insert(place, sequence);
        }
    }

    /// Notes that a part of the plan was computed; how many of its tokens were
    /// the prompt's.
    pub(super) fn computed(&mut self, planned: &Planned) -> usize {
        let sequence = &mut self.running[planned.index];
        let before = sequence.computed;
        sequence.computed += planned.count;
        let tokens = &sequence.tokens[..sequence.computed];
        self.blocks.publish(&mut sequence.pages, tokens);
        let prompt = sequence.computed.min(sequence.prompt_tokens);
        prompt.saturating_sub(before)
    }

    /// Removes all sequences that `ended` says, and frees their pages.
    pub(super) fn remove(&mut self, mut ended: impl FnMut(&Sequence) -> bool) {
        let blocks = &mut self.blocks;
        self.running.retain_mut(|sequence| {
            let ended = ended(sequence);
            if ended {
                blocks.release(&mut sequence.pages);
            }
            !ended
        });
        self.waiting.retain(|sequence| !ended(sequence));
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Share of the cache in use.
    pub(super) fn kv_cache_usage(&self) -> f64 {
        self.blocks.usage()
    }
}

impl Counters {
    /// Counts a sequence that runs for the first time.
    fn first_run(&mut self, sequence: &mut Sequence, shared: usize) {
        if sequence.cached_tokens.is_some() {
            return;
        }
        self.prefix_queries += sequence.prompt_tokens as u64;
        self.prefix_hits += shared as u64;
        sequence.cached_tokens = Some(u32::try_from(shared).unwrap_or(u32::MAX));
    }
}

impl Sequence {
    /// How many tokens a step computes; prompt tokens count against the budget.
    fn take(&self, budget: &mut usize) -> usize {
        if self.pending() <= 1 {
            return self.pending();
        }
        let count = self.pending().min(*budget);
        *budget -= count;
        count
    }

    /// Whether this running sequence is about to fill the page that `other`
    /// needs after its first `shared` tokens.
    fn computes(&self, other: &Self, shared: usize) -> bool {
        let end = shared + PAGE_TOKENS;
        end < other.tokens.len()
            && self.computed < end
            && self.pages.adapter() == other.pages.adapter()
            && self.tokens.get(..end) == Some(&other.tokens[..end])
    }
}
