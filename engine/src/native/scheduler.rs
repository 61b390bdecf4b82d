//! Which tokens of which sequences the next step computes. Has no tensor in it.
//!
//! Every running sequence that only lacks its last token gets it; prompts share
//! a step's budget (see [`super::pace`] and [`super::shares`]), so that none of
//! them holds up a running stream for longer. Who waits is admitted as
//! [`super::queue`] says. When pages run out, the sequence that was admitted last
//! loses its own and starts over later: its draws are counters and its numbers
//! do not depend on chunks, so its text stays.

use model::kernels::PAGE_TOKENS;

use super::blocks::BlockManager;
use super::pace::{Pace, StepShape};
use super::queue::WaitingQueue;
use super::sequence::Sequence;
use super::shares::share_out;

/// How many waiting sequences are looked at beyond one whose beginning is
/// being computed for another.
const HELD_MAX: usize = 16;

/// Running sequences, in the order of their first admission, and waiting ones.
pub(super) struct Scheduler {
    pub(super) running: Vec<Sequence>,
    pub(super) waiting: WaitingQueue,
    pub(super) counters: Counters,
    tickets: u64,
    blocks: BlockManager,
    running_max: usize,
    /// What it knows of how long steps take.
    pub(super) pace: Pace,
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
            waiting: WaitingQueue::default(),
            counters: Counters::default(),
            tickets: 0,
            blocks,
            running_max: running_max.max(1),
            pace: Pace::new(prefill_tokens_max, running_max),
        }
    }

    /// Plans a step, and makes sure of its pages.
    pub(super) fn schedule(&mut self) -> Vec<Planned> {
        self.make_room();
        self.admit();
        let is_prompt = |sequence: &&Sequence| sequence.pending() > 1;
        let prompts = self.running.iter().filter(is_prompt);
        let left: Vec<usize> = prompts.map(Sequence::pending).collect();
        let streams = self.running.iter().filter(|s| s.pending() == 1).count();
        let budget = self.pace.budget(streams, left.len());
        let mut shares = share_out(&left, budget).into_iter();
        let mut plan = Vec::new();
        for (index, sequence) in self.running.iter().enumerate() {
            let count = match sequence.pending() {
                0 | 1 => sequence.pending(),
                _ => shares.next().unwrap_or(0),
            };
            if count > 0 {
                plan.push(Planned { index, count });
            }
        }
        // neighbours with the same adapter are computed together
        plan.sort_by_key(|planned| self.running[planned.index].pages.adapter());
        plan
    }

    /// What a plan computes, before it is computed.
    pub(super) fn shape(&self, plan: &[Planned]) -> StepShape {
        let mut shape = StepShape::default();
        for planned in plan {
            match self.running[planned.index].pending() {
                1 => shape.streams += 1,
                _ => shape.prompt_tokens += planned.count,
            }
        }
        shape
    }

    /// Gets pages for every running sequence's tokens, if need be from those
    /// admitted after it, which wait again.
    fn make_room(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let tokens = sequence.tokens.len();
            if self.blocks.grow(&mut sequence.pages, tokens) {
                index += 1;
            } else if let Some(mut last) = self.running.pop() {
                self.blocks.release(&mut last.pages);
                last.computed = 0;
                self.counters.preemptions += 1;
                self.waiting.resume(last);
            }
        }
    }

    /// Lets waiting sequences run while there are places and pages for all of
    /// their tokens, in the queue's order: one that does not fit is not passed
    /// over. One whose next page is being computed for a running sequence waits
    /// for that instead of computing it too.
    fn admit(&mut self) {
        let mut held = Vec::new();
        while self.running.len() < self.running_max && held.len() <= HELD_MAX {
            let Some(sequence) = self.waiting.next(&held) else {
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
                held.push(sequence.order());
                continue;
            }
            let Some(sequence) = self.waiting.take(&held) else {
                return;
            };
            self.begin(sequence, shared);
        }
    }

    /// Makes a sequence with its pages run, its first `shared` tokens computed.
    fn begin(&mut self, mut sequence: Sequence, shared: usize) {
        sequence.computed = shared;
        self.counters.first_run(&mut sequence, shared);
        // charged at once, so that the next place goes to another
        let tokens = sequence.tokens.len();
        if sequence.ticket.is_none() {
            sequence.ticket = Some(self.tickets);
            self.tickets += 1;
            sequence.served = shared;
        }
        self.waiting.serve(&mut sequence, tokens);
        let ticket = sequence.ticket;
        let place = self.running.partition_point(|other| other.ticket < ticket);
        self.running.insert(place, sequence);
    }

    /// Notes that a part of the plan was computed; how many of its tokens were
    /// the prompt's.
    pub(super) fn computed(&mut self, planned: &Planned) -> usize {
        let sequence = &mut self.running[planned.index];
        let before = sequence.computed;
        sequence.computed += planned.count;
        let computed = sequence.computed;
        self.waiting.serve(sequence, computed);
        let tokens = &sequence.tokens[..sequence.computed];
        self.blocks.publish(&mut sequence.pages, tokens);
        let prompt = sequence.computed.min(sequence.prompt_tokens);
        prompt.saturating_sub(before)
    }

    /// Removes all sequences that `ended` says, and frees their pages.
    pub(super) fn remove(&mut self, mut ended: impl FnMut(&Sequence) -> bool) {
        let (blocks, waiting) = (&mut self.blocks, &mut self.waiting);
        self.running.retain_mut(|sequence| {
            let ended = ended(sequence);
            if ended {
                blocks.release(&mut sequence.pages);
                waiting.ended(sequence);
            }
            !ended
        });
        waiting.remove(ended);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
