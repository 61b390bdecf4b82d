//! How many prompt tokens a step may have beside running streams, from how long
//! steps took. Pure: durations are passed in.
//!
//! A stream's next token comes with the end of the step, so that a prompt is
//! computed in pieces which take a share of the streams' own part of the step.
//! What a piece costs is more than its tokens: far into a prompt, all that it said
//! before is read for however few. So what tokens cost is known from where they are
//! many, and the rest from the pieces beside streams. Prompts that are more than the
//! streams get as much more: each of those who wait counts the same. Until both parts
//! were measured, and where there is no stream, only the configured limit counts.

use std::time::Duration;

/// What one prompt may add to a step, as a share of the streams' own part: the
/// longest that is promised is twice as long, and measurements waver.
const SHARE: f64 = 0.6;
/// The fewest prompt tokens of a step, so that every prompt gets on.
const TOKENS_MIN: usize = 2;
/// From so many on, prompt tokens cost in proportion.
const TOKENS_MANY: usize = 32;
/// After so many steps with prompt tokens one has none, to measure the streams' own
/// part: it grows with what they said.
const MIXED_MAX: u32 = 16;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.2;
/// A measurement above so many times what is known counts as that: the machine
/// was busy with something else.
const SURPRISE_MAX: f64 = 2.0;

/// What a step computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StepShape {
    /// Sequences that got their next token.
    pub(super) streams: usize,
    /// Tokens of prompts.
    pub(super) prompt_tokens: usize,
}

/// Measured times, in seconds.
pub(super) struct Pace {
    tokens_max: usize,
    /// A step of so many streams and one, and nothing else.
    alone: Vec<Option<f64>>,
    /// One prompt token among many.
    token: Option<f64>,
    /// What few prompt tokens beside streams cost more than so many of those.
    beside: f64,
    /// Steps with prompt tokens since the last one of streams alone.
    mixed: u32,
}

impl Pace {
    /// Knows nothing yet. No step has more than `tokens_max` prompt tokens or
    /// `streams_max` streams.
    pub(super) fn new(tokens_max: usize, streams_max: usize) -> Self {
        Self {
            tokens_max: tokens_max.max(1),
            alone: vec![None; streams_max.max(1)],
            token: None,
            beside: 0.0,
            mixed: 0,
        }
    }

    /// How many prompt tokens a step of so many streams and prompts may have; none, now
    /// and then.
    pub(super) fn budget(&self, streams: usize, prompts: usize) -> usize {
        let (Some(alone), Some(token)) = (self.alone(streams), self.token) else {
            return self.tokens_max;
        };
        if self.mixed >= MIXED_MAX {
            return 0;
        }
        let share = SHARE * (prompts as f64 / streams as f64).max(1.0);
        let tokens = (share * alone - self.beside) / token;
        (tokens as usize).max(TOKENS_MIN).min(self.tokens_max)
    }

    /// Learns from a step.
    pub(super) fn observe(&mut self, shape: StepShape, took: Duration) {
        let took = took.as_secs_f64();
        let StepShape {
            streams,
            prompt_tokens,
        } = shape;
        if prompt_tokens == 0 {
            self.mixed = 0;
            let index = streams.checked_sub(1);
            if let Some(known) = index.and_then(|index| self.alone.get_mut(index)) {
                learn(known, took);
            }
            return;
        }
        let alone = match (streams, self.alone(streams)) {
            (0, _) => 0.0,
            (_, Some(alone)) => alone,
            (_, None) => return,
        };
        self.mixed = self.mixed.saturating_add(u32::from(streams > 0));
        let tokens = prompt_tokens as f64;
        match self.token {
            Some(token) if prompt_tokens < TOKENS_MANY => {
                if streams > 0 {
                    let expected = alone + (token * tokens + self.beside).max(0.0);
                    let took = took.min(SURPRISE_MAX * expected);
                    self.beside += WEIGHT * (took - alone - token * tokens - self.beside);
                }
            }
            _ => {
                // which is a part of what many tokens cost
                self.beside *= 1.0 - WEIGHT;
                learn(&mut self.token, (took - alone).max(took / 10.0) / tokens);
            }
        }
    }

    /// How long a step of so many streams takes, by the nearest number of which
    /// it is known: no longer than fewer take, and no less than in proportion.
    fn alone(&self, streams: usize) -> Option<f64> {
        let index = streams.checked_sub(1)?;
        let known = |i: usize| self.alone.get(i).copied().flatten();
        let fewer = (0..=index.min(self.alone.len() - 1)).rev().find_map(known);
        let more = || {
            let found = (index..self.alone.len()).find_map(|i| Some((i, known(i)?)));
            found.map(|(i, time)| time * streams as f64 / (i + 1) as f64)
        };
        fewer.or_else(more)
    }
}

fn learn(known: &mut Option<f64>, found: f64) {
    *known = Some(match *known {
        None => found,
        Some(known) => known + WEIGHT * (found.min(known * SURPRISE_MAX) - known),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn shape(streams: usize, prompt_tokens: usize) -> StepShape {
        StepShape {
            streams,
            prompt_tokens,
        }
    }

    /// A machine that takes 4 ms and 2 ms a stream, and 1 ms a prompt token.
    fn time(shape: StepShape) -> Duration {
        let streams = match shape.streams {
            0 => 0,
            n => 4000 + 2000 * n as u64,
        };
        Duration::from_micros(streams + 1000 * shape.prompt_tokens as u64)
    }

    /// The same where a prompt beside streams takes so much more.
    fn time_beside(shape: StepShape, beside: Duration) -> Duration {
        match (shape.streams, shape.prompt_tokens) {
            (0, _) | (_, 0) => time(shape),
            _ => time(shape) + beside,
        }
    }

    fn learned(shapes: &[StepShape]) -> Pace {
        let mut pace = Pace::new(128, 8);
        for shape in shapes {
            pace.observe(*shape, time(*shape));
        }
        pace
    }

    #[test]
    fn without_streams_or_measurements_only_the_limit_counts() {
        assert_eq!(Pace::new(128, 8).budget(3, 1), 128);
        assert_eq!(learned(&[shape(8, 0)]).budget(8, 1), 128);
        assert_eq!(learned(&[shape(0, 100)]).budget(8, 1), 128);
        assert_eq!(learned(&[shape(8, 0), shape(0, 100)]).budget(0, 1), 128);
    }

    #[test]
    fn a_prompt_adds_less_than_the_streams_part() {
        let pace = learned(&[shape(8, 0), shape(0, 100), shape(1, 0)]);
        assert_eq!(pace.budget(8, 1), 12);
        assert_eq!(pace.budget(1, 1), 3);
        let mixed = time(shape(8, 12)).as_secs_f64();
        assert!(mixed <= 2.0 * time(shape(8, 0)).as_secs_f64());
    }

    #[test]
    fn more_prompts_than_streams_get_as_much_more() {
        let pace = learned(&[shape(1, 0), shape(0, 100)]);
        assert_eq!(pace.budget(1, 7), 25);
        assert_eq!(pace.budget(1, 1000), 128);
        assert_eq!(pace.budget(7, 7), pace.budget(7, 1));
    }

    #[test]
    fn what_is_not_known_is_taken_from_its_neighbours() {
        let pace = learned(&[shape(4, 0), shape(0, 100)]);
        assert_eq!(pace.budget(4, 8), 14);
        assert_eq!(pace.budget(8, 32), 28, "at least what fewer streams take");
        assert_eq!(pace.budget(2, 8), 14, "in proportion");
    }

    #[test]
    fn what_a_piece_costs_beside_its_tokens_leaves_fewer_of_them() {
        let mut pace = learned(&[shape(8, 0), shape(0, 100)]);
        // into a long prompt, and then a fresh one
        for (beside, expected) in [(0, 12), (6, 6), (11, TOKENS_MIN), (6, 6), (0, 12)] {
            let mut budget = 0;
            for _ in 0..60 {
                budget = match pace.budget(8, 1) {
                    0 => {
                        pace.observe(shape(8, 0), time(shape(8, 0)));
                        continue;
                    }
                    budget => budget,
                };
                let shape = shape(8, budget);
                pace.observe(shape, time_beside(shape, Duration::from_millis(beside)));
            }
            assert!(budget.abs_diff(expected) <= 1, "{beside} ms: {budget}");
        }
    }

    #[test]
    fn now_and_then_streams_are_measured_alone() {
        let mut pace = learned(&[shape(8, 0), shape(0, 100)]);
        // they become twice as slow while a prompt is computed
        let (mut alone, mut tokens) = (0, 0);
        for _ in 0..100 * (MIXED_MAX + 1) {
            let shape = shape(8, pace.budget(8, 1));
            let slower = time(StepShape {
                prompt_tokens: 0,
                ..shape
            });
            pace.observe(shape, time(shape) + slower);
            alone += u32::from(shape.prompt_tokens == 0);
            tokens = tokens.max(shape.prompt_tokens);
        }
        assert_eq!(alone, 100);
        assert!((23..=25).contains(&tokens), "0.6 of 40 ms: {tokens}");
        // steps without streams do not make that due
        let mut pace = learned(&[shape(8, 0)]);
        for _ in 0..100 {
            pace.observe(shape(0, 100), time(shape(0, 100)));
        }
        assert_eq!(pace.budget(8, 1), 12);
    }

    #[test]
    fn it_follows_the_machine_but_not_every_hiccup() {
        let mut pace = learned(&[shape(8, 0), shape(0, 100)]);
        pace.observe(shape(8, 0), Duration::from_secs(60));
        assert!(pace.budget(8, 1) <= 14);
        pace.observe(shape(8, 10), Duration::from_secs(60));
        assert!(pace.budget(8, 1) >= 7);
        // twice as slow
        for _ in 0..100 {
            pace.observe(shape(8, 0), 2 * time(shape(8, 0)));
            let shape = shape(8, pace.budget(8, 1));
            pace.observe(shape, 2 * time(shape));
        }
        let budget = pace.budget(8, 1);
        assert!((11..=12).contains(&budget), "as many as before: {budget}");
    }

    #[test]
    fn every_prompt_gets_on() {
        let mut pace = learned(&[shape(1, 0)]);
        pace.observe(shape(0, 1), Duration::from_secs(10));
        assert_eq!(pace.budget(1, 1), TOKENS_MIN);
        assert_eq!(Pace::new(2, 8).budget(1, 1), 2);
    }
}
