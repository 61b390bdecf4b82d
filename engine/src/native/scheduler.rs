//! Which tokens of which sequences the next step computes. Has no tensor in it.
//!
//! Every running sequence that only lacks its last token gets it; what is left
//! of a step's budget goes to prompts, first come first served. When pages run
//! out, the youngest sequence loses its own and starts over later: its draws
//! are counters and its numbers do not depend on chunks, so its text stays.

use std::collections::VecDeque;

use super::blocks::BlockManager;
use super::sequence::Sequence;

/// Running and waiting sequences.
pub(super) struct Scheduler {
    pub(super) running: Vec<Sequence>,
    pub(super) waiting: VecDeque<Sequence>,
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

impl Scheduler {
    pub(super) fn new(kv_tokens_max: usize, running_max: usize, prefill_tokens_max: usize) -> Self {
        Self {
            running: Vec::new(),
            waiting: VecDeque::new(),
            blocks: BlockManager::new(kv_tokens_max),
            running_max: running_max.max(1),
            prefill_tokens_max: prefill_tokens_max.max(1),
        }
    }

    /// Plans a step, and makes sure of its pages.
    pub(super) fn schedule(&mut self) -> Vec<Planned> {
        let mut budget = self.prefill_tokens_max;
        let mut plan = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            let count = self.running[index].take(&mut budget);
            if count > 0 && self.make_room(index, count) {
                plan.push(Planned { index, count });
            }
            index += 1;
        }
        while budget > 0 && self.running.len() < self.running_max {
            let Some(mut sequence) = self.waiting.pop_front() else {
                break;
            };
            let count = sequence.take(&mut budget);
            if !self.blocks.grow(&mut sequence.pages, count) {
                self.waiting.push_front(sequence);
                break;
            }
            plan.push(Planned {
                index: self.running.len(),
                count,
            });
            self.running.push(sequence);
        }
        // neighbours with the same adapter are computed together
        plan.sort_by_key(|planned| {
            let lease = self.running[planned.index].lease.as_ref();
            lease.map(|lease| lease.adapter().digest)
        });
        plan
    }

    /// Gets pages for a running sequence, if need be from younger ones; false
    /// if it had to give up its own.
    fn make_room(&mut self, index: usize, count: usize) -> bool {
        loop {
            let sequence = &mut self.running[index];
            if self
                .blocks
                .grow(&mut sequence.pages, sequence.computed + count)
            {
                return true;
            }
            let Some(mut youngest) = self.running.pop() else {
                return false;
            };
            self.blocks.release(&mut youngest.pages);
            youngest.computed = 0;
            self.waiting.push_front(youngest);
            if self.running.len() == index {
                return false;
            }
        }
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
}
