//! How fast RoPE turns each pair of a head's elements.

use crate::config::ModelConfig;

/// How positions are turned into angles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f32,
    /// Elements of a head that are turned, the first ones; even.
    pub dims: usize,
    /// What positions are divided by (linear scaling); 1 leaves them.
    pub linear_factor: f32,
}

impl RopeConfig {
    /// The angle of each pair between one position and the next, in radians.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f32> {
        let frequency = |i: usize| {
            #[expect(clippy::cast_precision_loss, reason = "at most the size of a head")]
            let exponent = (2 * i) as f64 / self.dims as f64;
            #[expect(clippy::cast_possible_truncation, reason = "computed with in f32")]
            let unscaled = (1.0 / f64::from(self.theta).powf(exponent)) as f32;
            unscaled / self.linear_factor
        };
        (0..self.dims / 2).map(frequency).collect()
    }
}

impl ModelConfig {
    /// The RoPE of a layer.
    #[must_use]
    pub fn rope_of(&self, layer: usize) -> RopeConfig {
        let local = self.window_of(layer).and_then(|window| window.rope_theta);
        match local {
            None => self.rope,
            Some(theta) => RopeConfig {
                theta,
                linear_factor: 1.0,
                ..self.rope
            },
        }
    }
}
