//! Rotary position embedding.

use model::{BaseModel, ModelConfig, RopeConfig, RopeOrder};

/// The tables of a model's layers.
pub(super) struct RopeTables {
    pub(super) global: RopeTable,
    /// That of the layers with a sliding window, where it is another.
    pub(super) local: Option<RopeTable>,
}

impl RopeTables {
    /// Tables for sequences of at most `context_length` tokens.
    pub(super) fn new(model: &BaseModel, context_length: usize) -> Self {
        let config = &model.config;
        let table = |layer| {
            let shape = (config.architecture.rope_order, config.head_dim);
            let factors = model.weights.rope_factors.as_deref();
            RopeTable::new(shape, config.rope_of(layer), factors, context_length)
        };
        let of_kind = |local: bool| {
            let mut layers = 0..config.layer_count;
            layers.find(|&layer| (config.rope_of(layer) != config.rope) == local)
        };
        Self {
            global: table(of_kind(false).unwrap_or(0)),
            local: of_kind(true).map(table),
        }
    }

    /// The table of a layer.
    pub(super) fn of(&self, config: &ModelConfig, layer: usize) -> &RopeTable {
        match &self.local {
            Some(local) if config.window_of(layer).is_some() => local,
            _ => &self.global,
        }
    }
}

/// Sines and cosines for every position up to a limit.
pub(super) struct RopeTable {
    order: RopeOrder,
    head_dim: usize,
    /// Elements of a head that are turned.
    dims: usize,
    /// `[positions][dims / 2]`, cosine and sine.
    angles: Vec<(f32, f32)>,
}

impl RopeTable {
    /// The table for positions below `positions`; the frequencies are divided by
    /// `factors`, if there are any.
    pub(super) fn new(
        (order, head_dim): (RopeOrder, usize),
        rope: RopeConfig,
        factors: Option<&[f32]>,
        positions: usize,
    ) -> Self {
        let mut frequencies = rope.frequencies();
        if let Some(factors) = factors {
            frequencies
                .iter_mut()
                .zip(factors)
                .for_each(|(f, by)| *f /= by);
        }
        let angles = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .map(|angle| (angle.cos(), angle.sin()))
            .collect();
        Self {
            order,
            head_dim,
            dims: rope.dims,
            angles,
        }
    }

    /// Elements of a head that are turned.
    #[cfg(feature = "candle")]
    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    /// `[positions][dims / 2]`, cosine and sine.
    #[cfg(feature = "candle")]
    pub(super) fn angles(&self) -> &[(f32, f32)] {
        &self.angles
    }

    /// Turns all heads of a row at a position, and multiplies them by `scale`.
    pub(super) fn turn(&self, row: &mut [f32], position: usize, scale: f32) {
        let half = self.dims / 2;
        let angles = &self.angles[position * half..(position + 1) * half];
        for head in row.chunks_exact_mut(self.head_dim) {
            let (head, still) = head.split_at_mut(self.dims);
            still.iter_mut().for_each(|v| *v *= scale);
            match self.order {
                RopeOrder::Interleaved => {
                    for (pair, &(cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                        let [a, b] = *pair;
                        *pair = [(a * cos - b * sin) * scale, (a * sin + b * cos) * scale];
                    }
                }
                RopeOrder::Halves => {
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), &(cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                        let (x, y) = (*a, *b);
                        (*a, *b) = ((x * cos - y * sin) * scale, (x * sin + y * cos) * scale);
                    }
                }
            }
        }
    }
}
