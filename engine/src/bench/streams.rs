//! Streams as a client has them: what they say, and when each piece comes.
//!
//! What a pause means, and which ones are compared, is the caller's matter.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use ids::AdapterDigest;
use tokio::task::JoinHandle;

use crate::api::{ChatEvent, ChatRequest, Engine, EngineError, Usage};

/// What a stream said, and when.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The version that made it.
    pub adapter: Option<AdapterDigest>,
    /// Its text so far.
    pub text: String,
    /// When each piece of text came.
    pub times: Vec<Instant>,
    /// What it cost, if it was heard to its end.
    pub usage: Option<Usage>,
    /// The place that it ran in.
    pub place: usize,
}

impl Heard {
    /// Whether it said what `other`, a whole one, says, as far as it was heard.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        match self.usage {
            Some(_) => self.text == other.text,
            None => other.text.starts_with(&self.text),
        }
    }

    /// The pauses between pieces that end in a span of time.
    pub fn pauses(&self, from: Instant, until: Instant) -> impl Iterator<Item = Duration> {
        self.pauses_of(self.numbers(from, until))
    }

    /// The numbers of the pauses that end in a span of time.
    #[must_use]
    pub fn numbers(&self, from: Instant, until: Instant) -> Range<usize> {
        let ends = self.times.get(1..).unwrap_or_default();
        let start = ends.partition_point(|end| *end < from);
        start..start.max(ends.partition_point(|end| *end <= until))
    }

    /// The pauses with some numbers, as far as there are any.
    pub fn pauses_of(&self, numbers: Range<usize>) -> impl Iterator<Item = Duration> {
        let pairs = self.times.windows(2);
        pairs
            .skip(numbers.start)
            .take(numbers.len())
            .map(|pair| pair[1] - pair[0])
    }
}

/// Asks, and listens until the end or until `stop` is set.
///
/// # Errors
/// As [`Engine::chat`] and its events; [`EngineError::Stopped`] for a stream that
/// ends too early.
pub async fn hear(
    engine: &dyn Engine,
    request: ChatRequest,
    pieces: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Heard, EngineError> {
    let mut stream = engine.chat(request).await?;
    let mut heard = Heard {
        adapter: stream.adapter,
        text: String::new(),
        times: Vec::new(),
        usage: None,
        place: 0,
    };
    while !stop.load(Ordering::Relaxed) {
        match stream.events.recv().await.ok_or(EngineError::Stopped)?? {
            ChatEvent::Delta { text, .. } => {
                heard.times.push(Instant::now());
                heard.text.push_str(&text);
                pieces.fetch_add(1, Ordering::Relaxed);
            }
            ChatEvent::Finished { .. } => {}
            ChatEvent::Done { usage } => {
                heard.usage = Some(usage);
                break;
            }
        }
    }
    Ok(heard)
}

/// As [`hear`], to the end.
///
/// # Errors
/// As [`hear`].
pub async fn hear_all(engine: &dyn Engine, request: ChatRequest) -> Result<Heard, EngineError> {
    hear(engine, request, &AtomicU64::new(0), &AtomicBool::new(false)).await
}

/// Says what a stream's place asks for next.
pub type Next = Arc<dyn Fn(usize) -> ChatRequest + Send + Sync>;

/// Streams in a number of places, each followed by another one.
pub struct Running {
    tasks: Vec<JoinHandle<Vec<Heard>>>,
    pieces: Arc<[AtomicU64]>,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
}

/// What streams said until they were stopped.
pub struct Told {
    /// All that was heard.
    pub heard: Vec<Heard>,
    /// Requests that were refused or failed.
    pub failed: u64,
}

impl Running {
    /// Starts streams in so many places. One whose version has just gone is asked
    /// for anew, as a gateway does; any other error counts as a failure.
    #[must_use]
    pub fn start(engine: &Arc<dyn Engine>, places: usize, next: &Next) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(AtomicU64::new(0));
        let pieces: Arc<[AtomicU64]> = (0..places).map(|_| AtomicU64::new(0)).collect();
        let task = |place: usize| {
            let (engine, next, stop) = (Arc::clone(engine), Arc::clone(next), Arc::clone(&stop));
            let (pieces, failed) = (Arc::clone(&pieces), Arc::clone(&failed));
            let listen = async move {
                let mut all = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match hear(engine.as_ref(), next(place), &pieces[place], &stop).await {
                        Ok(heard) => all.push(Heard { place, ..heard }),
                        Err(EngineError::AdapterNotLoaded(_)) => {}
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
                all
            };
            tokio::spawn(listen)
        };
        Self {
            tasks: (0..places).map(task).collect(),
            pieces,
            stop,
            failed,
        }
    }

    /// Waits until every place has had so many pieces of text.
    pub async fn warmed_up(&self, pieces: u64) {
        let has = |count: &AtomicU64| count.load(Ordering::Relaxed) >= pieces;
        while !self.pieces.iter().all(has) && self.failed.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends all streams.
    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Told {
            heard: Vec::new(),
            failed: self.failed.load(Ordering::Relaxed),
        };
        for task in join_all(self.tasks).await {
            match task {
                Ok(heard) => told.heard.extend(heard),
                // it panicked, or the runtime ends
                Err(_) => told.failed += 1,
            }
        }
        told
    }
}
