//! Which tokens of which sequences the next step computes. Has no tensor in it.
//!
//! Every running sequence that only lacks its last token gets it; prompts share
//! a step's budget (see [`super::pace`] and [`super::shares`]), so that none of
//! them holds up a running stream for longer. When pages run
//! out, the youngest sequence loses its own and starts over later: its draws
//! are counters and its numbers do not depend on chunks, so its text stays.

use std::collections::VecDeque;

use model::kernels::PAGE_TOKENS;

use super::blocks::BlockManager;
use super::pace::{Pace, StepShape};
use super::sequence::Sequence;
use super::shares::share_out;

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
            waiting: VecDeque::new(),
            counters: Counters::default(),
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
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc;

    use super::*;
    use crate::api::{ChatRequest, SamplingParams};
    use crate::native::request::{RequestId, Submission};

    fn scheduler(pages: usize, prefill_tokens_max: usize) -> Scheduler {
        Scheduler::new(BlockManager::new(pages, true), 8, prefill_tokens_max)
    }

    /// A sequence of `tokens` prompt tokens, different from every other one's.
    fn sequence(id: u64, tokens: usize) -> Sequence {
        let start = u32::try_from(id).unwrap() * 10_000;
        let submission = Submission {
            grammar: None,
            request: ChatRequest {
                messages: Vec::new(),
                adapter: None,
                sampling: SamplingParams::greedy(),
                max_tokens: None,
                stop: Vec::new(),
                n: 1,
                top_logprobs: None,
                ignore_eos: true,
                constraint: None,
            },
            prompt: (start..).take(tokens).collect(),
            max_tokens: 1000,
            lease: None,
            events: mpsc::channel(1).0,
            arrived: Instant::now(),
        };
        Sequence::new(RequestId(id), 0, &submission)
    }

    /// One step: every sequence whose tokens are all computed gets another.
    /// Gives how many tokens each running sequence computed, by request.
    fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
        let plan = scheduler.schedule();
        let mut counts = Vec::new();
        for planned in &plan {
            scheduler.computed(planned);
            let sequence = &mut scheduler.running[planned.index];
            counts.push((sequence.request.0, planned.count));
            if sequence.pending() == 0 {
                sequence.tokens.push(7);
            }
        }
        counts
    }

    fn running(scheduler: &Scheduler) -> Vec<u64> {
        scheduler.running.iter().map(|s| s.request.0).collect()
    }

    #[test]
    fn a_huge_prompt_holds_up_neither_streams_nor_short_prompts() {
        let mut scheduler = scheduler(1000, 64);
        scheduler.waiting.push_back(sequence(0, 10));
        step(&mut scheduler);
        scheduler.waiting.push_back(sequence(1, 4000));
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 64)]);
        scheduler.waiting.push_back(sequence(2, 40));
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 32), (2, 32)]);
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 56), (2, 8)]);
        assert_eq!(step(&mut scheduler), [(0, 1), (1, 64), (2, 1)]);
    }

    #[test]
    fn a_huge_prompt_gets_on_however_many_short_ones_come() {
        let mut scheduler = scheduler(1000, 64);
        scheduler.waiting.push_back(sequence(0, 640));
        for id in 1..=20 {
            scheduler.waiting.push_back(sequence(id, 40));
            let counts = step(&mut scheduler);
            let huge = counts.iter().find(|(id, _)| *id == 0).unwrap().1;
            assert!(huge == 1 || huge >= 32, "{counts:?}");
            scheduler.remove(|s| s.request.0 > 0 && s.tokens.len() > s.prompt_tokens + 3);
        }
        assert!(
            scheduler.running[0].tokens.len() > 640,
            "it has its first token"
        );
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back_in_its_place() {
        // three of two pages each, and one page to spare
        let mut scheduler = scheduler(7, 1000);
        for id in 0..4 {
            scheduler.waiting.push_back(sequence(id, 60));
        }
        step(&mut scheduler);
        assert_eq!(running(&scheduler), [0, 1, 2]);
        // all three need a third page at the same step
        while scheduler.counters.preemptions == 0 {
            step(&mut scheduler);
        }
        assert_eq!(running(&scheduler), [0, 1]);
        let waiting: Vec<u64> = scheduler.waiting.iter().map(|s| s.request.0).collect();
        assert_eq!(waiting, [2, 3]);
        assert_eq!(scheduler.waiting[0].computed, 0);
        let tokens = scheduler.waiting[0].tokens.clone();
        scheduler.remove(|sequence| sequence.request.0 == 0);
        step(&mut scheduler);
        assert_eq!(running(&scheduler), [1, 2]);
        assert_eq!(scheduler.running[1].tokens[..tokens.len()], tokens);
        assert!(
            scheduler.counters.prefix_hits == 0,
            "a resumption counts no hit"
        );
    }

    #[test]
    fn a_prompt_that_is_being_computed_is_not_computed_twice() {
        let mut scheduler = scheduler(100, 40);
        for (id, choice) in [(0, 0), (0, 1), (0, 2), (1, 0)] {
            let mut sequence = sequence(id, 100);
            sequence.choice = choice;
            scheduler.waiting.push_back(sequence);
        }
        // the other choices wait, and who is behind them does not
        assert_eq!(step(&mut scheduler), [(0, 40)]);
        assert_eq!(running(&scheduler), [0, 1]);
        let mut computed = 40;
        while scheduler.running.len() < 4 || scheduler.running.iter().any(|s| s.pending() > 1) {
            computed += step(&mut scheduler)
                .iter()
                .map(|(_, n)| n)
                .filter(|&&n| n > 1)
                .sum::<usize>();
        }
        assert_eq!(computed, 100 + 4 + 4 + 100);
    }
}
