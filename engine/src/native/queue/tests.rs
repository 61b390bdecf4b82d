//! Tenants against each other, without a model.

use super::*;
use crate::native::scheduler::Scheduler;
use crate::native::scheduler::tests::{running, scheduler, sequence_of, step};

fn tenant(name: &str) -> Tenant {
    Some(TenantId::new(name).unwrap())
}

/// Ends sequences that have `tokens` tokens of their answer.
fn end_at(scheduler: &mut Scheduler, tokens: usize) {
    scheduler.remove(|s| s.tokens.len() >= s.prompt_tokens + tokens);
}

/// Steps until a request runs, with `flood` asked after each; how many it took.
fn steps_until_runs(
    scheduler: &mut Scheduler,
    id: u64,
    answer: usize,
    mut flood: impl FnMut(&mut Scheduler),
) -> usize {
    for steps in 0..10_000 {
        step(scheduler);
        if running(scheduler).contains(&id) {
            return steps;
        }
        end_at(scheduler, answer);
        flood(scheduler);
    }
    usize::MAX
}

#[test]
fn a_flood_does_not_hold_up_another_tenant() {
    const ANSWER: usize = 20;
    let mut scheduler = scheduler(1000, 1000);
    let (flooding, quiet) = (tenant("flooding"), tenant("quiet"));
    let mut next_id = 0;
    let mut flood = |scheduler: &mut Scheduler, count: usize| {
        for _ in 0..count {
            let sequence = sequence_of(flooding.clone(), next_id, 10);
            scheduler.waiting.push(sequence);
            next_id += 1;
        }
    };
    flood(&mut scheduler, 200);
    let mut longest = 0;
    for id in 10_000..10_030 {
        for _ in 0..7 {
            step(&mut scheduler);
            end_at(&mut scheduler, ANSWER);
        }
        scheduler.waiting.push(sequence_of(quiet.clone(), id, 10));
        let steps = steps_until_runs(&mut scheduler, id, ANSWER, |s| flood(s, 1));
        longest = longest.max(steps);
    }
    // a place is free when the first of those that run has ended
    assert!(longest <= ANSWER, "{longest} steps");
    let waiting = scheduler.waiting.by_tenant();
    assert!(waiting[&flooding] > 100, "the flood is still there");
}

#[test]
fn tenants_share_by_tokens_and_not_by_requests() {
    let mut scheduler = scheduler(1000, 1000);
    let (long, short) = (tenant("long"), tenant("short"));
    for id in 0..400 {
        scheduler
            .waiting
            .push(sequence_of(long.clone(), 2 * id, 90));
        let sequence = sequence_of(short.clone(), 2 * id + 1, 10);
        scheduler.waiting.push(sequence);
    }
    let mut served = BTreeMap::<Tenant, usize>::new();
    for _ in 0..300 {
        step(&mut scheduler);
        scheduler.remove(|s| {
            let ended = s.tokens.len() >= s.prompt_tokens + 10;
            if ended {
                *served.entry(s.tenant.clone()).or_default() += s.tokens.len();
            }
            ended
        });
        if scheduler.waiting.by_tenant().len() < 2 {
            break;
        }
    }
    let (long, short) = (served[&long] as f64, served[&short] as f64);
    assert!((0.8..1.25).contains(&(long / short)), "{long} and {short}");
}

#[test]
fn within_a_tenant_it_is_the_order_of_arrival() {
    let mut scheduler = scheduler(1000, 1000);
    for id in 0..20 {
        let name = if id % 3 == 0 { "a" } else { "b" };
        scheduler.waiting.push(sequence_of(tenant(name), id, 10));
    }
    let mut seen = Vec::new();
    while !scheduler.is_idle() {
        step(&mut scheduler);
        for id in running(&scheduler) {
            if !seen.contains(&id) {
                seen.push(id);
            }
        }
        end_at(&mut scheduler, 3);
    }
    let of = |is_a: bool| seen.iter().filter(move |&&id| (id % 3 == 0) == is_a);
    assert!(of(true).is_sorted() && of(false).is_sorted(), "{seen:?}");
    assert_eq!(seen.len(), 20);
}

#[test]
fn who_was_away_has_saved_up_nothing() {
    let mut queue = WaitingQueue::default();
    let (busy, late) = (tenant("busy"), tenant("late"));
    queue.push(sequence_of(busy.clone(), 0, 10));
    let mut running = queue.take(&[]).unwrap();
    queue.serve(&mut running, 1000);
    for id in 1..4 {
        queue.push(sequence_of(busy.clone(), id, 10));
        queue.push(sequence_of(late.clone(), 10 + id, 10));
    }
    let mut order = Vec::new();
    while let Some(mut sequence) = queue.take(&[]) {
        queue.serve(&mut sequence, 10);
        order.push(sequence.request.0);
    }
    assert_eq!(order, [1, 11, 2, 12, 3, 13]);
}

#[test]
fn who_comes_back_at_once_is_not_counted_anew() {
    let mut queue = WaitingQueue::default();
    let (busy, other) = (tenant("busy"), tenant("other"));
    queue.push(sequence_of(other.clone(), 0, 10));
    queue.push(sequence_of(busy.clone(), 1, 10));
    let mut others = queue.take(&[]).unwrap();
    queue.serve(&mut others, 10);
    let mut first = queue.take(&[]).unwrap();
    queue.serve(&mut first, 500);
    queue.ended(&first);
    queue.remove(|_| false);
    queue.push(sequence_of(busy, 2, 10));
    queue.push(sequence_of(other, 3, 10));
    let next = queue.take(&[]).unwrap();
    assert_eq!(next.request.0, 3, "500 tokens are not forgotten");
}

#[test]
fn the_tenants_that_are_remembered_are_bounded() {
    let mut queue = WaitingQueue::default();
    queue.push(sequence_of(tenant("always"), 0, 10));
    for id in 1..3000 {
        let name = format!("t{id}");
        queue.push(sequence_of(tenant(&name), id, 10));
        let is_new = move |other: &Sequence| other.request.0 != id;
        let held: Vec<_> = queue
            .iter()
            .filter(|s| is_new(s))
            .map(Sequence::order)
            .collect();
        let mut running = queue.take(&held).unwrap();
        queue.serve(&mut running, 100);
        queue.ended(&running);
        queue.remove(|_| false);
        assert!(queue.tenants.len() <= IDLE_TENANTS_MAX + 1);
    }
    queue.remove(|_| true);
    assert!(queue.tenants.is_empty() && queue.is_empty());
}

#[test]
fn a_sequence_that_lost_its_pages_comes_before_the_new_ones_of_anybody() {
    let mut scheduler = scheduler(7, 1000);
    for id in 0..3 {
        scheduler.waiting.push(sequence_of(tenant("old"), id, 60));
    }
    step(&mut scheduler);
    scheduler.waiting.push(sequence_of(tenant("new"), 9, 20));
    while scheduler.counters.preemptions == 0 {
        step(&mut scheduler);
    }
    let waiting: Vec<u64> = scheduler.waiting.iter().map(|s| s.request.0).collect();
    assert_eq!(waiting, [2, 9]);
    scheduler.remove(|s| s.request.0 == 0);
    step(&mut scheduler);
    assert_eq!(running(&scheduler)[..2], [1, 2]);
}
