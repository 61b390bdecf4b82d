//! Prompts beside running streams, warm and cold beginnings, and what loaded
//! adapters cost those who use none.

use std::sync::Arc;
use std::time::Instant;

use engine::bench::streams::{Heard, Running, Told, hear_all};
use engine::bench::{Bench, Case, Mix, conversation, request};
use engine::{ChatMessage, Role};

use super::{STREAMS, Stage, compare};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target, milliseconds, quantile};

/// Tokens of the prompt that comes among streams.
const LONG: u32 = 2000;
/// Tokens of those streams: more than they can have while it is computed.
const STREAM_TOKENS: u32 = 1000;
/// Pieces of text of each stream before anything is measured.
const WARM_UP: u64 = 24;
/// How long streams run before the prompt comes.
const UNDISTURBED: std::time::Duration = std::time::Duration::from_secs(2);
/// Tokens of the prompt whose first token is waited for.
const SHORT: u32 = 200;
/// Tokens of it that are only its own where its beginning is warm.
const QUESTION: u32 = 24;
/// Adapters that are loaded beside traffic of the base.
const BESIDE: u64 = 16;
/// Numbers of prompts, so that no cache knows them from elsewhere.
const NUMBERS: u32 = 5000;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    long_among_streams(stage).await?;
    first_token(stage).await?;
    base_beside_adapters(stage).await
}

/// A long prompt comes while streams run. What they would have had without it is
/// seen of the same streams, over the same tokens: a stream's own past makes its steps
/// longer as it grows.
async fn long_among_streams(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let streams = stage.base_streams(STREAM_TOKENS).await?;
    let (mut with, mut without, mut waited) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..stage.args.rounds {
        let engine = stage.engine.as_ref();
        let long = conversation(engine, LONG, NUMBERS + round).await;
        let long = request(long.map_err(failed)?, None, 1);
        let running = Running::start(&stage.engine, STREAMS, &streams);
        running.warmed_up(WARM_UP).await;
        // a moment beside nothing, as an engine in service has had
        tokio::time::sleep(UNDISTURBED).await;
        let arrived = Instant::now();
        let heard = hear_all(engine, long).await.map_err(failed)?;
        let ended = Instant::now();
        let disturbed = running.stop().await;
        let running = Running::start(&stage.engine, STREAMS, &streams);
        let pieces = longest(&disturbed);
        running.warmed_up(pieces as u64).await;
        let undisturbed = running.stop().await;
        if disturbed.failed + undisturbed.failed > 0 {
            return Err(CliError::Bench(
                "streams beside a long prompt failed".to_owned(),
            ));
        }
        for place in 0..STREAMS {
            let first = |told: &Told| {
                told.heard
                    .iter()
                    .find(|heard| heard.place == place)
                    .cloned()
            };
            let (Some(stream), Some(alone)) = (first(&disturbed), first(&undisturbed)) else {
                continue;
            };
            let numbers = stream.numbers(arrived, ended);
            with.extend(stream.pauses_of(numbers.clone()).map(milliseconds));
            without.extend(alone.pauses_of(numbers).map(milliseconds));
        }
        waited.extend(first_token_of(&heard));
    }
    let found = compare("long prompt", with, without, Target::AtMost(2.0));
    stage.figures.extend(found);
    let name = format!("long prompt: its first of {LONG} tokens and one");
    let median = quantile(&mut waited, 0.5);
    stage.figures.push(Figure::new(name, median, "ms"));
    Ok(())
}

/// The most pieces of text that any place had.
fn longest(told: &Told) -> usize {
    let mut pieces = [0; STREAMS];
    for heard in &told.heard {
        pieces[heard.place] += heard.times.len();
    }
    pieces.into_iter().max().unwrap_or(0)
}

/// A question after a beginning that was never seen, and after one that was.
async fn first_token(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    let engine = stage.engine.as_ref();
    for round in 0..stage.args.rounds {
        let beginning = conversation(engine, SHORT - QUESTION, 2 * NUMBERS + round).await;
        let beginning = beginning.map_err(failed)?;
        for times in [&mut cold, &mut warm] {
            let asked = asked_after(&beginning, times.len() as u32, round);
            let heard = hear_all(engine, request(asked, None, 1)).await;
            times.extend(first_token_of(&heard.map_err(failed)?));
        }
    }
    let name = |beginning: &str| format!("{SHORT}-token prompt, {beginning}: first token, p50");
    stage.figures.extend([
        Figure::new(name("nothing of it known"), quantile(&mut cold, 0.5), "ms"),
        Figure::new(name("warm beginning"), quantile(&mut warm, 0.5), "ms")
            .should(Target::AtMost(200.0)),
    ]);
    Ok(())
}

/// In milliseconds.
fn first_token_of(heard: &Heard) -> Option<f64> {
    heard
        .usage
        .map(|usage| milliseconds(usage.time_to_first_token))
}

/// Another question each time.
fn asked_after(beginning: &[ChatMessage], number: u32, round: u32) -> Vec<ChatMessage> {
    let mut messages = beginning.to_vec();
    let text = format!("{number} and {round}: what comes after those?");
    messages.push(ChatMessage::new(Role::User, text));
    messages
}

/// Streams of the base, with nothing loaded and with adapters that nobody uses.
async fn base_beside_adapters(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let bench = Bench {
        case: Case::Decode {
            batch: STREAMS as u32,
            tokens: 128,
        },
        adapters: Mix::Base,
    };
    let mut adapters = Vec::new();
    for seed in 0..BESIDE {
        let adapter = stage.native.synthetic_adapter(stage.common.rank, seed);
        adapters.push(adapter.map_err(failed)?);
    }
    let engine = Arc::clone(&stage.engine);
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..stage.args.rounds {
        let mut rates = [0.0; 2];
        for (loaded, rate) in rates.iter_mut().enumerate() {
            for adapter in adapters.iter().filter(|_| loaded == 1) {
                let loaded = engine.load_adapter(adapter.clone()).await;
                loaded.map_err(failed)?;
            }
            // the first one after a load only warms up: a load itself is another figure
            for turn in 0..2 {
                let number = 3 * NUMBERS + 4 * round + 2 * loaded as u32 + turn;
                let measured = bench.measure(engine.as_ref(), &[], number).await;
                *rate = measured.map_err(failed)?;
            }
            stage.unload_all().await?;
        }
        without.push(rates[0]);
        with.push(rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    let name = format!("base, {STREAMS} streams, {BESIDE} adapters loaded");
    let figure = Figure::new(name, quantile(&mut with, 0.5), "tokens/s");
    let mut figure = figure.beside(quantile(&mut without, 0.5));
    // of neighbours, so that a slow minute meets both
    figure.ratio = Some(quantile(&mut ratios, 0.5));
    stage.figures.push(figure.should(Target::AtLeast(0.98)));
    Ok(())
}
