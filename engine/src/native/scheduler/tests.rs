//! Steps without a model: who computes what, and who gives way.

use std::time::Instant;

use model::ToolMarkup;
use tokio::sync::mpsc;

use super::*;
use crate::api::ChatRequest;
use crate::native::queue::Tenant;
use crate::native::request::{RequestId, Submission};

pub(in crate::native) fn scheduler(pages: usize, prefill_tokens_max: usize) -> Scheduler {
    Scheduler::new(BlockManager::new(pages, true), 8, prefill_tokens_max)
}

/// A sequence of `tokens` prompt tokens, different from every other one's.
pub(in crate::native) fn sequence(id: u64, tokens: usize) -> Sequence {
    sequence_of(None, id, tokens)
}

/// The same of a tenant.
pub(in crate::native) fn sequence_of(tenant: Tenant, id: u64, tokens: usize) -> Sequence {
    Sequence::new(RequestId(id), 0, &submission(tenant, id, tokens))
}

/// A request for one of them.
pub(in crate::native) fn submission(tenant: Tenant, id: u64, tokens: usize) -> Submission {
    let start = u32::try_from(id).unwrap() * 10_000;
    Submission {
        grammar: None,
        tool_markup: ToolMarkup::Tagged,
        request: ChatRequest {
            tenant,
            ignore_eos: true,
            ..ChatRequest::greedy(Vec::new(), 1000)
        },
        prompt: (start..).take(tokens).collect(),
        max_tokens: 1000,
        lease: None,
        events: mpsc::channel(1).0,
        arrived: Instant::now(),
    }
}

/// One step: every sequence whose tokens are all computed gets another.
/// Gives how many tokens each running sequence computed, by request.
pub(in crate::native) fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
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

pub(in crate::native) fn running(scheduler: &Scheduler) -> Vec<u64> {
    scheduler.running.iter().map(|s| s.request.0).collect()
}

#[test]
fn a_huge_prompt_holds_up_neither_streams_nor_short_prompts() {
    let mut scheduler = scheduler(1000, 64);
    scheduler.waiting.push(sequence(0, 10));
    step(&mut scheduler);
    scheduler.waiting.push(sequence(1, 4000));
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 64)]);
    scheduler.waiting.push(sequence(2, 40));
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 32), (2, 32)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 56), (2, 8)]);
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 64), (2, 1)]);
}

#[test]
fn a_huge_prompt_gets_on_however_many_short_ones_come() {
    let mut scheduler = scheduler(1000, 64);
    scheduler.waiting.push(sequence(0, 640));
    for id in 1..=20 {
        scheduler.waiting.push(sequence(id, 40));
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
        scheduler.waiting.push(sequence(id, 60));
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
    let first = scheduler.waiting.iter().next().unwrap();
    assert_eq!(first.computed, 0);
    let tokens = first.tokens.clone();
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
        scheduler.waiting.push(sequence);
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
