//! The engine's thread: it alone runs the model and owns the cache.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::BaseModel;
use rayon::prelude::*;

use super::cache::KvCache;
use super::forward::{Chunk, Forward};
use super::inbox::{Inbox, Mode};
use super::request::{RequestId, RequestState, Submission};
use super::scheduler::{Planned, Scheduler};
use super::sequence::Sequence;
use crate::api::EngineError;

/// What other threads may know of the worker.
#[derive(Default)]
pub(super) struct Gauges {
    pub(super) running: AtomicU64,
    /// Bits of an f64.
    pub(super) kv_cache_usage: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generation_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
}

/// The state of the engine's thread.
pub(super) struct Worker {
    pub(super) model: Arc<BaseModel>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) forward: Forward,
    pub(super) cache: KvCache,
    pub(super) scheduler: Scheduler,
    pub(super) requests: BTreeMap<RequestId, RequestState>,
    pub(super) next_request: u64,
}

impl Worker {
    /// Steps until the engine is closed and, if it is only draining, empty.
    pub(super) fn run(&mut self) {
        loop {
            self.take_submissions();
            let mode = self.inbox.mode();
            if mode == Mode::Stopped || (mode == Mode::Draining && self.scheduler.is_idle()) {
                return;
            }
            self.step();
        }
    }

    /// One step: schedule, run, postprocess.
    fn step(&mut self) {
        self.drop_cancelled();
        let plan = self.scheduler.schedule();
        let mut logits = self.run_model(&plan);
        self.postprocess(&plan, &mut logits);
        self.publish(&plan);
    }

    /// Moves requests from the inbox to the scheduler; waits when idle.
    fn take_submissions(&mut self) {
        while let Some(submission) = self.inbox.take(self.scheduler.is_idle()) {
            self.accept(&submission);
        }
    }

    fn accept(&mut self, submission: &Submission) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, RequestState::new(submission));
        for choice in 0..submission.request.n {
            self.scheduler
                .waiting
                .push_back(Sequence::new(id, choice, submission));
        }
    }

    fn drop_cancelled(&mut self) {
        self.requests.retain(|_, request| !request.is_cancelled());
        self.scheduler
            .remove(|sequence| !self.requests.contains_key(&sequence.request));
    }

    /// Computes the planned tokens; the logits of those sequences that are
    /// complete, in the plan's order.
    fn run_model(&mut self, plan: &[Planned]) -> Vec<f32> {
        if plan.is_empty() {
            return Vec::new();
        }
        let chunk = |planned: &Planned| {
            let sequence = &self.scheduler.running[planned.index];
            let first = sequence.computed;
            Chunk {
                tokens: &sequence.tokens[first..first + planned.count],
                first_position: first,
                pages: &sequence.pages,
                adapter: sequence.lease.as_ref().map(|lease| lease.adapter()),
                logits: usize::from(planned.count == sequence.pending()),
            }
        };
        let chunks: Vec<Chunk<'_>> = plan.iter().map(chunk).collect();
        self.forward.run(&mut self.cache, &chunks)
    }

    /// Chooses the next token of every sequence that has logits, tells its
    /// listener, and removes what has ended.
    fn postprocess(&mut self, plan: &[Planned], logits: &mut [f32]) {
        self.prepare_grammars();
        let mut rows = logits.chunks_exact_mut(self.model.config.vocab_size);
        let mut ended = Vec::new();
        for planned in plan {
            let sequence = &mut self.scheduler.running[planned.index];
            sequence.computed += planned.count;
            if sequence.pending() > 0 {
                continue;
            }
            let (Some(row), Some(request)) =
                (rows.next(), self.requests.get_mut(&sequence.request))
            else {
                continue;
            };
            let advance = match sequence.advance(row, &self.model.tokenizer) {
                Ok(advance) => advance,
                Err(error) => {
                    request.fail(error);
                    self.requests.remove(&sequence.request);
                    continue;
                }
            };
            request.count_token();
            self.gauges
                .generation_tokens
                .fetch_add(1, Ordering::Relaxed);
            request.delta(sequence.choice, advance.text, advance.logprobs);
            if let Some(reason) = advance.finished {
                ended.push((sequence.request, sequence.choice));
                if request.finish(sequence.choice, reason) {
                    self.requests.remove(&sequence.request);
                }
            }
        }
        self.scheduler.remove(|sequence| {
            !self.requests.contains_key(&sequence.request)
                || ended.contains(&(sequence.request, sequence.choice))
        });
    }

    /// Finds the tokens that grammars allow next, for several sequences at once.
    fn prepare_grammars(&mut self) {
        let running = &mut self.scheduler.running;
        let mut constrained: Vec<&mut Sequence> = running
            .iter_mut()
            .filter(|sequence| sequence.is_constrained())
            .collect();
        constrained
            .par_iter_mut()
            .for_each(|sequence| sequence.prepare());
    }

    fn publish(&self, plan: &[Planned]) {
        let prompt: usize = plan.iter().filter(|p| p.count > 1).map(|p| p.count).sum();
        let gauges = &self.gauges;
        gauges
            .prompt_tokens
            .fetch_add(prompt as u64, Ordering::Relaxed);
        gauges
            .running
            .store(self.scheduler.running.len() as u64, Ordering::Relaxed);
        let usage = self.scheduler.kv_cache_usage();
        gauges
            .kv_cache_usage
            .store(usage.to_bits(), Ordering::Relaxed);
        gauges.steps.fetch_add(1, Ordering::Relaxed);
        let waiting = u32::try_from(self.scheduler.waiting.len()).unwrap_or(u32::MAX);
        self.inbox.set_scheduled(waiting);
    }

    /// Tells every listener that the engine has stopped.
    pub(super) fn stop(&mut self) {
        self.inbox.close(Mode::Stopped);
        self.requests
            .values()
            .for_each(|request| request.fail(EngineError::Stopped));
        self.requests.clear();
        self.scheduler.remove(|_| true);
        self.gauges.running.store(0, Ordering::Relaxed);
        self.gauges.kv_cache_usage.store(0, Ordering::Relaxed);
    }
}
