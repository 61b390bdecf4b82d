//! The differentiable forward pass over the served quantized weights.
//!
//! One pass over a packed prefix tree, from tokens to the log-probabilities
//! of its targets. Reads top to bottom as the model is computed. Knows no loss
//! and no optimizer.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use model::{ModelConfig, Projection, Weights};

use crate::TrainerError;
use crate::give_way::{GiveWay, GiveWayConfig};
use crate::operations::{Norm, Operations};
use crate::ops::dropout::Dropout;
use crate::ops::fused::FusedOperations;
use crate::ops::tensor;
use crate::pack::{Pack, Tree};
use crate::parameters::{ParameterView, Parameters};
use crate::tensors::{Place, TensorOperations};

/// Index of each group in `parameters::GROUPS`.
const QKV: usize = 0;
const OUT: usize = 1;
const GATE_UP: usize = 2;
const DOWN: usize = 3;

/// The frozen weights, and what computes with them.
pub struct FrozenModel {
    config: ModelConfig,
    head_is_embedding: bool,
    operations: Box<dyn Operations>,
    give_way: Option<GiveWay>,
}

/// A forward and backward pass.
pub(crate) struct Pass<'a> {
    pub(crate) pack: &'a Pack,
    pub(crate) parameters: &'a Parameters,
    pub(crate) dropout: Option<Dropout>,
    /// Keep each layer's input only and compute the layer again for its
    /// backward pass: one layer's graph is alive instead of all.
    pub(crate) recompute: bool,
}

/// ∂loss/∂log-probability of each target, given the log-probabilities.
pub(crate) type Slopes<'a> = dyn FnMut(&[f32]) -> Result<Vec<f32>, TrainerError> + 'a;

impl FrozenModel {
    /// Takes the weights by reference counts; nothing is copied but the norms.
    /// Sequences may have up to `positions_max` tokens.
    ///
    /// # Errors
    /// [`TrainerError::Config`] for a model with parts that have no backward here.
    pub fn new(
        weights: &Weights,
        config: &ModelConfig,
        positions_max: usize,
    ) -> Result<Self, TrainerError> {
        Self::on(&Place::cpu(), weights, config, positions_max)
    }

    /// The same where training computes; on another device than the CPU the
    /// weights are copied to it.
    ///
    /// # Errors
    /// Also what the device fails with, which may have no room.
    pub fn on(
        place: &Place,
        weights: &Weights,
        config: &ModelConfig,
        positions_max: usize,
    ) -> Result<Self, TrainerError> {
        check_trainable(weights, config)?;
        let operations: Box<dyn Operations> = match place.tensors() {
            None => Box::new(FusedOperations::new(weights, config, positions_max)),
            Some(on) => {
                let on = on.clone();
                Box::new(TensorOperations::new(on, weights, config, positions_max)?)
            }
        };
        Ok(Self {
            config: config.clone(),
            head_is_embedding: weights.output.is_none(),
            operations,
            give_way: None,
        })
    }

    /// The same, which pauses before a pack while others want the CPUs.
    #[must_use]
    pub fn giving_way(self, config: GiveWayConfig) -> Self {
        Self {
            give_way: Some(GiveWay::new(config)),
            ..self
        }
    }

    fn wait(&self) {
        if let Some(give_way) = &self.give_way {
            give_way.wait();
        }
    }

    /// The model's sizes.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Numbers in the base: matrices, norms, and the embedding once if tied.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        let c = &self.config;
        let layer: usize = Projection::ALL
            .iter()
            .map(|&p| c.projection_shape(p))
            .map(|(out, input)| out * input)
            .sum();
        let tables = c.vocab_size * c.hidden_size * if self.head_is_embedding { 1 } else { 2 };
        tables + c.hidden_size + c.layer_count * (layer + 2 * c.hidden_size)
    }

    /// The log-probability of every target of the pack, `[targets]`.
    pub(crate) fn log_probs(
        &self,
        pack: &Pack,
        parameters: &ParameterView,
        with_gradient: bool,
    ) -> Result<Tensor, TrainerError> {
        self.wait();
        let mut x = self.operations.embed(&pack.tree.tokens)?; // [rows, hidden]
        for index in 0..self.config.layer_count {
            x = self.layer(index, &x, &pack.tree, parameters)?;
        }
        self.target_log_probs(&x, pack, with_gradient)
    }

    /// The log-probability of every target, without a graph, and whether greedy
    /// decoding would take it.
    pub(crate) fn scored(
        &self,
        pack: &Pack,
        parameters: &ParameterView,
    ) -> Result<(Vec<f32>, Vec<bool>), TrainerError> {
        self.wait();
        let by = &self.operations;
        let mut x = by.embed(&pack.tree.tokens)?; // [rows, hidden]
        for index in 0..self.config.layer_count {
            x = self.layer(index, &x, &pack.tree, parameters)?;
        }
        let hidden = by.norm(Norm::Output, &x)?;
        Ok(by.scored(&hidden, &pack.targets)?)
    }

    /// Adds the gradients of Σ slope · log-probability to `sums`, one vector
    /// for each group of parameters.
    pub(crate) fn add_gradients(
        &self,
        pass: &Pass<'_>,
        slopes: &mut Slopes<'_>,
        sums: &mut [Vec<f32>],
    ) -> Result<(), TrainerError> {
        let mut view = pass.parameters.view(true);
        view.dropout = pass.dropout;
        if pass.recompute {
            return self.add_gradients_by_layer(pass, &view, slopes, sums);
        }
        let log_probs = self.log_probs(pass.pack, &view, true)?;
        let gradients = weighted(&log_probs, slopes)?.backward()?;
        pass.parameters.add_gradients(&gradients, sums)
    }

    /// The same with one layer's graph alive at a time.
    fn add_gradients_by_layer(
        &self,
        pass: &Pass<'_>,
        view: &ParameterView,
        slopes: &mut Slopes<'_>,
        sums: &mut [Vec<f32>],
    ) -> Result<(), TrainerError> {
        self.wait();
        let tree = &pass.pack.tree;
        let mut still = pass.parameters.view(false);
        still.dropout = pass.dropout;
        let mut inputs = Vec::with_capacity(self.config.layer_count);
        let mut x = self.operations.embed(&tree.tokens)?; // [rows, hidden]
        for index in 0..self.config.layer_count {
            let next = self.layer(index, &x, tree, &still)?;
            inputs.push(std::mem::replace(&mut x, next));
        }
        let missing = || candle_core::Error::BackwardNotSupported { op: "a layer" }.bt();
        let top = Var::from_tensor(&x)?;
        drop(x);
        let log_probs = self.target_log_probs(top.as_tensor(), pass.pack, true)?;
        let mut gradients = weighted(&log_probs, slopes)?.backward()?;
        let mut dy = gradients.remove(&top).ok_or_else(missing)?; // [rows, hidden]
        drop((top, log_probs, gradients));
        for (index, x) in inputs.into_iter().enumerate().rev() {
            let input = Var::from_tensor(&x)?;
            drop(x);
            let y = self.layer(index, input.as_tensor(), tree, view)?;
            let mut gradients = (y * dy)?.sum_all()?.backward()?;
            pass.parameters.add_gradients(&gradients, sums)?;
            dy = gradients.remove(&input).ok_or_else(missing)?;
        }
        Ok(())
    }

    /// One layer: `[rows, hidden]` to the same.
    fn layer(
        &self,
        index: usize,
        x: &Tensor,
        tree: &Arc<Tree>,
        view: &ParameterView,
    ) -> Result<Tensor, TrainerError> {
        let by = &self.operations;
        let apply = |kind, x: &Tensor| by.linear(index, kind, x, view);
        let rows = tree.tokens.len();
        let width = self.config.hidden_size;
        let normed = by.norm(Norm::Attention(index), x)?;
        let qkv = apply(QKV, &normed)?; // q, k, v one after another
        let attended = by.attention(&qkv, tree)?; // [rows, heads·dim]
        let x = (x + apply(OUT, &attended)?.reshape((rows, width))?)?;
        let normed = by.norm(Norm::FeedForward(index), &x)?;
        let gate_up = apply(GATE_UP, &normed)?; // gate, then up
        let gated = by.gated(&gate_up)?;
        Ok((x + apply(DOWN, &gated)?.reshape((rows, width))?)?)
    }

    /// From the last layer's output to log-probabilities.
    fn target_log_probs(
        &self,
        x: &Tensor,
        pack: &Pack,
        with_gradient: bool,
    ) -> Result<Tensor, TrainerError> {
        let by = &self.operations;
        let hidden = by.norm(Norm::Output, x)?;
        Ok(by.target_log_probs(&hidden, &pack.targets, with_gradient)?)
    }
}

/// A scalar whose gradient is that of the loss: Σ log-probability · slope.
fn weighted(log_probs: &Tensor, slopes: &mut Slopes<'_>) -> Result<Tensor, TrainerError> {
    let slopes = slopes(&log_probs.to_vec1::<f32>()?)?;
    let len = slopes.len();
    let slopes = tensor(slopes, len)?.to_device(log_probs.device())?;
    Ok((log_probs * slopes)?.sum_all()?)
}

/// Refuses what the forward pass above leaves out: it is LLaMA's.
fn check_trainable(weights: &Weights, config: &ModelConfig) -> Result<(), TrainerError> {
    let name = config.architecture.gguf_name;
    let problem = if name != "llama" {
        format!("models of the architecture {name} cannot be trained yet, only served")
    } else if weights.rope_factors.is_some() || config.rope.linear_factor != 1.0 {
        "models with scaled RoPE cannot be trained yet, only served".to_owned()
    } else if config.window.is_some() || config.rope.dims != config.head_dim {
        "models with a sliding window or partial RoPE cannot be trained yet, only served".to_owned()
    } else {
        return Ok(());
    };
    Err(TrainerError::Config {
        key: "model",
        problem,
    })
}
