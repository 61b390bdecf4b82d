//! The engine's thread: it alone runs the model and owns the cache, whatever
//! computes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use model::{BaseModel, kernels};

use super::backend::Backend;
use super::forward::Chunk;
use super::inbox::{Inbox, Mode};
use super::pace::StepShape;
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
    /// Memory that the cache has taken.
    pub(super) kv_bytes: AtomicU64,
    pub(super) prefix_queries: AtomicU64,
    pub(super) prefix_hits: AtomicU64,
    pub(super) preemptions: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generation_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
}

/// The state of the engine's thread.
pub(super) struct Worker {
    pub(super) model: Arc<BaseModel>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) gauges: Arc<Gauges>,
    pub(super) backend: Box<dyn Backend>,
    pub(super) scheduler: Scheduler,
    pub(super) requests: BTreeMap<RequestId, RequestState>,
    pub(super) next_request: u64,
    /// How long a request waits for its first place in the batch.
    pub(super) queue_wait_max: Duration,
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
            let started = Instant::now();
            let shape = self.step();
            self.scheduler.pace.observe(shape, started.elapsed());
        }
    }

    /// One step: schedule, run, postprocess. Says what it computed; how long
    /// that took is the caller's to measure, so that a step has no clock in it.
    pub(super) fn step(&mut self) -> StepShape {
        self.drop_ended();
        let plan = self.scheduler.schedule();
        self.note_started();
        let shape = self.scheduler.shape(&plan);
        match self.run_model(&plan) {
            Ok(mut logits) => self.postprocess(&plan, &mut logits),
            Err(error) => self.fail_planned(&plan, &error),
        }
        self.publish();
        shape
    }

    /// Moves requests from the inbox to the scheduler; waits when idle.
    pub(super) fn take_submissions(&mut self) {
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
                .push(Sequence::new(id, choice, submission));
        }
    }

    /// Drops what nobody listens to any more and what has waited for too long.
    fn drop_ended(&mut self) {
        let limit = self.queue_wait_max;
        self.requests
            .retain(|_, request| !request.is_cancelled() && !request.expire(limit));
        self.scheduler
            .remove(|sequence| !self.requests.contains_key(&sequence.request));
    }

    /// A request that has had a place in the batch waits no longer in vain.
    fn note_started(&mut self) {
        for sequence in &self.scheduler.running {
            if let Some(request) = self.requests.get_mut(&sequence.request) {
                request.has_started = true;
            }
        }
    }

    /// Computes the planned tokens; the logits of those sequences that are
    /// complete, in the plan's order.
    fn run_model(&mut self, plan: &[Planned]) -> Result<Vec<f32>, EngineError> {
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        let chunk = |planned: &Planned| {
            let sequence = &self.scheduler.running[planned.index];
            let first = sequence.computed;
            Chunk {
                tokens: &sequence.tokens[first..first + planned.count],
                first_position: first,
                pages: sequence.pages.pages(),
                adapter: sequence.lease.as_ref().map(|lease| lease.adapter()),
                logits: usize::from(planned.count == sequence.pending()),
            }
        };
        let chunks: Vec<Chunk<'_>> = plan.iter().map(chunk).collect();
        self.backend.run(&chunks)
    }

    /// Ends the requests of a batch that could not be computed. What was
    /// computed before stays findable; what was not is known to nobody.
    fn fail_planned(&mut self, plan: &[Planned], error: &EngineError) {
        tracing::error!(%error, sequences = plan.len(), "a batch failed");
        for planned in plan {
            let request = self.scheduler.running[planned.index].request;
            if let Some(request) = self.requests.remove(&request) {
                request.fail(error.clone());
            }
        }
        self.scheduler
            .remove(|sequence| !self.requests.contains_key(&sequence.request));
    }

    /// Chooses the next token of every sequence that has logits, tells its
    /// listener, and removes what has ended.
    fn postprocess(&mut self, plan: &[Planned], logits: &mut [f32]) {
        self.prepare_grammars();
        let mut rows = logits.chunks_exact_mut(self.model.config.vocab_size);
        let mut ended = Vec::new();
        let mut prompt_tokens = 0;
        for planned in plan {
            prompt_tokens += self.scheduler.computed(planned);
            let sequence = &mut self.scheduler.running[planned.index];
            if sequence.pending() > 0 {
                continue;
            }
            let (Some(row), Some(request)) =
                (rows.next(), self.requests.get_mut(&sequence.request))
            else {
                continue;
            };
            let advance = match sequence.advance(row, self.model.as_ref()) {
                Ok(advance) => advance,
                Err(error) => {
                    request.fail(error);
                    self.requests.remove(&sequence.request);
                    continue;
                }
            };
            request.count_token();
            request.set_cached_tokens(sequence);
            self.gauges
                .generation_tokens
                .fetch_add(1, Ordering::Relaxed);
            request.delta(sequence.choice, advance.read, advance.logprobs);
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
        self.gauges
            .prompt_tokens
            .fetch_add(prompt_tokens as u64, Ordering::Relaxed);
    }

    /// Finds the tokens that grammars allow next, for several sequences at once.
    fn prepare_grammars(&mut self) {
        let running = &mut self.scheduler.running;
        let mut constrained: Vec<&mut Sequence> = running
            .iter_mut()
            .filter(|sequence| sequence.is_constrained())
            .collect();
        kernels::for_each_mut(&mut constrained, |sequence| sequence.prepare());
    }

    fn publish(&self) {
        let gauges = &self.gauges;
        let counters = self.scheduler.counters;
        let store = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        store(&gauges.running, self.scheduler.running.len() as u64);
        let usage = self.scheduler.kv_cache_usage();
        store(&gauges.kv_cache_usage, usage.to_bits());
        store(&gauges.prefix_queries, counters.prefix_queries);
        store(&gauges.prefix_hits, counters.prefix_hits);
        store(&gauges.preemptions, counters.preemptions);
        store(&gauges.kv_bytes, self.backend.kv_byte_len());
        gauges.steps.fetch_add(1, Ordering::Relaxed);
        self.inbox.set_scheduled(self.scheduler.waiting.by_tenant());
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
