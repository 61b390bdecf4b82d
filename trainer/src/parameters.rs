//! The trained LoRA factors as candle variables, and back.
//!
//! The factors of projections with the same input lie in one vector, since
//! they are applied by one operation. Knows no file format: that is
//! `model::lora`'s.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use ids::Sha256Digest;
use model::Projection;
use model::lora::{LoraAdapter, LoraConfig, LoraPair, ModuleId};

use crate::TrainerError;
use crate::ops::dropout::Dropout;
use crate::ops::linear::LowRank;
use crate::ops::{tensor, with_values};
use crate::train::AdamW;

/// The projections that are applied to the same input, in output order.
pub(crate) const GROUPS: [&[Projection]; 4] = [
    &[Projection::Q, Projection::K, Projection::V],
    &[Projection::O],
    &[Projection::Gate, Projection::Up],
    &[Projection::Down],
];

/// Where each projection's factors lie within its group's vector.
pub(crate) type GroupLayout = Arc<[Option<LowRank>]>;

/// The factors of one group of projections of one layer.
pub(crate) struct Group {
    pub(crate) layer: usize,
    /// Index into [`GROUPS`].
    pub(crate) kind: usize,
    pub(crate) layout: GroupLayout,
    pub(crate) var: Var,
}

/// All trained parameters.
pub struct Parameters {
    config: LoraConfig,
    pub(crate) groups: Vec<Group>,
}

impl Parameters {
    /// The factors of `adapter`, ready to be trained.
    ///
    /// # Errors
    /// When a tensor cannot be made.
    pub fn from_adapter(adapter: &LoraAdapter) -> Result<Self, TrainerError> {
        let mut groups = Vec::new();
        let layers = adapter
            .modules
            .keys()
            .map(|id| id.layer + 1)
            .max()
            .unwrap_or(0);
        for layer in 0..layers {
            for (kind, projections) in GROUPS.iter().enumerate() {
                let pairs = projections
                    .iter()
                    .map(|&projection| adapter.modules.get(&ModuleId { layer, projection }));
                let (layout, values) = lay_out(pairs);
                if values.is_empty() {
                    continue;
                }
                let len = values.len();
                let var = Var::from_vec(values, len, &Device::Cpu)?;
                groups.push(Group {
                    layer,
                    kind,
                    layout,
                    var,
                });
            }
        }
        Ok(Self {
            config: adapter.config.clone(),
            groups,
        })
    }

    /// The current factors as an adapter.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn to_adapter(&self) -> Result<LoraAdapter, TrainerError> {
        let mut modules = std::collections::BTreeMap::new();
        for group in &self.groups {
            let values = group.var.as_tensor().to_vec1::<f32>()?;
            for (&projection, low_rank) in GROUPS[group.kind].iter().zip(group.layout.iter()) {
                let Some(at) = low_rank else { continue };
                let (a, b) = (values[at.a.clone()].to_vec(), values[at.b.clone()].to_vec());
                let pair = LoraPair {
                    rank: at.rank,
                    scale: at.scale,
                    a,
                    b,
                };
                modules.insert(
                    ModuleId {
                        layer: group.layer,
                        projection,
                    },
                    pair,
                );
            }
        }
        Ok(LoraAdapter {
            config: self.config.clone(),
            modules,
        })
    }

    /// Numbers that are trained.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.var.elem_count()).sum()
    }

    /// Whether nothing is trained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Lengths of the parameter vectors.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.groups.iter().map(|group| group.var.elem_count())
    }

    /// The vectors for a forward pass; a tracked one can be differentiated.
    pub(crate) fn view(&self, tracked: bool) -> ParameterView {
        let tensor = |group: &Group| match tracked {
            true => group.var.as_tensor().clone(),
            false => group.var.as_detached_tensor(),
        };
        let entry = |group: &Group| {
            (
                (group.layer, group.kind),
                (tensor(group), Arc::clone(&group.layout)),
            )
        };
        ParameterView {
            groups: self.groups.iter().map(entry).collect(),
            dropout: None,
        }
    }

    /// The values, one vector for each group.
    pub(crate) fn vectors(&self) -> Result<Vec<Vec<f32>>, TrainerError> {
        let values = |group: &Group| group.var.as_tensor().to_vec1::<f32>();
        Ok(self.groups.iter().map(values).collect::<Result<_, _>>()?)
    }

    /// Sets the values, which must be as many as there are.
    pub(crate) fn set(&self, vectors: Vec<Vec<f32>>) -> Result<(), TrainerError> {
        if !self.lengths().eq(vectors.iter().map(Vec::len)) {
            return Err(TrainerError::Config {
                key: "resume",
                problem: "the factors have another shape".to_owned(),
            });
        }
        for (group, values) in self.groups.iter().zip(vectors) {
            let len = values.len();
            group.var.set(&tensor(values, len)?)?;
        }
        Ok(())
    }

    /// Adds `scale` times the gradients to `sums`, one vector for each group.
    pub(crate) fn add_gradients(
        &self,
        gradients: &GradStore,
        sums: &mut [Vec<f32>],
    ) -> Result<(), TrainerError> {
        for (group, sum) in self.groups.iter().zip(sums) {
            let Some(gradient) = gradients.get(group.var.as_tensor()) else {
                continue;
            };
            with_values(gradient, |gradient| {
                sum.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += g);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// One step of the optimizer against `gradients`, scaled by `scale`.
    pub(crate) fn update(
        &self,
        optimizer: &mut AdamW,
        gradients: &[Vec<f32>],
        scale: f64,
        learning_rate: f64,
    ) -> Result<(), TrainerError> {
        optimizer.begin_step();
        for (index, (group, gradient)) in self.groups.iter().zip(gradients).enumerate() {
            let mut values = group.var.as_tensor().to_vec1::<f32>()?;
            optimizer.update(index, &mut values, gradient, scale, learning_rate);
            let len = values.len();
            group.var.set(&tensor(values, len)?)?;
        }
        Ok(())
    }

    /// Names the current values.
    pub(crate) fn digest(&self) -> Result<Sha256Digest, TrainerError> {
        let mut bytes = Vec::with_capacity(self.len() * 4);
        for group in &self.groups {
            let values = group.var.as_tensor().to_vec1::<f32>()?;
            values
                .iter()
                .for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
            for at in group.layout.iter().flatten() {
                bytes.extend_from_slice(&at.scale.to_le_bytes());
                bytes.extend_from_slice(&(at.rank as u64).to_le_bytes());
            }
        }
        Ok(Sha256Digest::of(&bytes))
    }

    /// The tensors of a list of group vectors by name.
    #[cfg(test)]
    pub(crate) fn named<'a>(
        &'a self,
        vectors: &'a [Vec<f32>],
    ) -> impl Iterator<Item = (String, &'a [f32])> + 'a {
        self.groups.iter().zip(vectors).flat_map(|(group, vector)| {
            let parts = GROUPS[group.kind].iter().zip(group.layout.iter());
            parts.flat_map(move |(projection, low_rank)| {
                let name = format!("layers.{}.{}", group.layer, projection.peft_name());
                low_rank
                    .iter()
                    .flat_map(move |at| {
                        let (a, b) = (&vector[at.a.clone()], &vector[at.b.clone()]);
                        [(format!("{name}.lora_A"), a), (format!("{name}.lora_B"), b)]
                    })
                    .collect::<Vec<_>>()
            })
        })
    }
}

/// Places the factors of a group one after another.
fn lay_out<'a>(pairs: impl Iterator<Item = Option<&'a LoraPair>>) -> (GroupLayout, Vec<f32>) {
    let mut values = Vec::new();
    let mut place = |factors: &[f32]| {
        let start = values.len();
        values.extend_from_slice(factors);
        start..values.len()
    };
    let layout = pairs
        .map(|pair| {
            pair.map(|pair| LowRank {
                a: place(&pair.a),
                b: place(&pair.b),
                rank: pair.rank,
                scale: pair.scale,
            })
        })
        .collect();
    (layout, values)
}

/// The parameter vectors of one forward pass.
#[derive(Default)]
pub(crate) struct ParameterView {
    groups: std::collections::HashMap<(usize, usize), (Tensor, GroupLayout)>,
    /// Masks of the low-rank terms' inputs.
    pub(crate) dropout: Option<Dropout>,
}

impl ParameterView {
    /// The vector of a group and its layout, if anything in it is adapted.
    pub(crate) fn group(&self, layer: usize, kind: usize) -> Option<&(Tensor, GroupLayout)> {
        self.groups.get(&(layer, kind))
    }
}
