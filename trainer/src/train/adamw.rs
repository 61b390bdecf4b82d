//! AdamW with moments that can be seen, saved and restored.

use serde::{Deserialize, Serialize};

use crate::TrainerError;

/// The optimizer's constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// First and second moments of one parameter vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
}

/// The optimizer over a list of parameter vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    pub steps: i32,
    /// Moments of each parameter vector, in the caller's order.
    pub moments: Vec<Moments>,
}

impl AdamW {
    /// An optimizer for parameter vectors of these lengths.
    #[must_use]
    pub fn new(config: AdamWConfig, lengths: impl IntoIterator<Item = usize>) -> Self {
        let zero = |n| Moments {
            first: vec![0.0; n],
            second: vec![0.0; n],
        };
        Self {
            config,
            steps: 0,
            moments: lengths.into_iter().map(zero).collect(),
        }
    }

    /// Goes to where another optimizer of the same vectors was.
    ///
    /// # Errors
    /// [`TrainerError::Config`] when the moments are of other vectors.
    pub fn restore(&mut self, steps: i32, moments: Vec<Moments>) -> Result<(), TrainerError> {
        let lengths = |moments: &[Moments]| -> Vec<(usize, usize)> {
            let of = |m: &Moments| (m.first.len(), m.second.len());
            moments.iter().map(of).collect()
        };
        if lengths(&moments) != lengths(&self.moments) {
            return Err(TrainerError::Config {
                key: "resume",
                problem: "the optimizer's moments have another shape".to_owned(),
            });
        }
        (self.steps, self.moments) = (steps, moments);
        Ok(())
    }

    /// Counts a step; then [`Self::update`] is called once for each vector.
    pub fn begin_step(&mut self) {
        self.steps = self.steps.saturating_add(1);
    }

    /// Moves `parameters` (vector number `index`) against `gradient`, which is
    /// first multiplied by `gradient_scale`.
    pub fn update(
        &mut self,
        index: usize,
        parameters: &mut [f32],
        gradient: &[f32],
        gradient_scale: f64,
        learning_rate: f64,
    ) {
        let AdamWConfig {
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.config;
        let (correction1, correction2) =
            (1.0 - beta1.powi(self.steps), 1.0 - beta2.powi(self.steps));
        let moments = &mut self.moments[index];
        let moments = moments.first.iter_mut().zip(&mut moments.second);
        for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
            let g = f64::from(g) * gradient_scale;
            let first = beta1 * f64::from(*m) + (1.0 - beta1) * g;
            let second = beta2 * f64::from(*v) + (1.0 - beta2) * g * g;
            (*m, *v) = (first as f32, second as f32);
            let direction = (first / correction1) / ((second / correction2).sqrt() + eps);
            let decayed = f64::from(*p) * (1.0 - learning_rate * weight_decay);
            *p = (decayed - learning_rate * direction) as f32;
        }
    }
}
