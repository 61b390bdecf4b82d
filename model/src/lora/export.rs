//! Adapters to PEFT's two files, the same bytes for the same adapter.

use std::collections::HashMap;

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::import::tensor_name;
use super::{LoraAdapter, LoraError, LoraPair, ModuleId, peft_config, permute};
use crate::ModelError;
use crate::architecture::Fused;
use crate::config::ModelConfig;

/// The two files of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeftFiles {
    /// `adapter_config.json`.
    pub config_json: Vec<u8>,
    /// `adapter_model.safetensors`.
    pub safetensors: Vec<u8>,
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeftValues {
    /// As they are.
    #[default]
    F32,
    /// Rounded to half precision.
    F16,
}

impl LoraAdapter {
    /// Writes the adapter as PEFT has it, in f32.
    ///
    /// # Errors
    /// [`LoraError`] when the configuration does not give the modules their
    /// ranks and scales, or when a module does not fit `model` or has a value
    /// that is not finite: what is written must be read back the same.
    pub fn to_peft(&self, model: &ModelConfig) -> Result<PeftFiles, ModelError> {
        self.to_peft_as(model, PeftValues::F32)
    }

    /// As [`Self::to_peft`], with the values written so.
    ///
    /// # Errors
    /// As for [`Self::to_peft`].
    pub fn to_peft_as(
        &self,
        model: &ModelConfig,
        values: PeftValues,
    ) -> Result<PeftFiles, ModelError> {
        let resolver = self.config.resolver(model.architecture)?;
        let mut tensors = Vec::with_capacity(2 * self.modules.len());
        for (id, pair) in &self.modules {
            if resolver.rank_and_scale(*id)? != (pair.rank, pair.scale) {
                let problem = "or another key does not give a module's rank and scale";
                return Err(LoraError::ConfigValue {
                    key: "rank_pattern",
                    problem,
                }
                .into());
            }
            let [a, b] = module_tensors(*id, pair, model, values)?;
            match model.architecture.fused_with(id.projection) {
                Some(fused) => self.append_part(fused, *id, [a, b], &mut tensors)?,
                None => tensors.extend([a, b]),
            }
        }
        if tensors.is_empty() {
            return Err(LoraError::NoModule.into());
        }
        let config_json = peft_config::write(&self.config, self.modules.keys(), model)?;
        let wrong = |e: safetensors::SafeTensorError| LoraError::Safetensors(e.to_string());
        let dtype = match values {
            PeftValues::F32 => Dtype::F32,
            PeftValues::F16 => Dtype::F16,
        };
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(dtype, shape.to_vec(), bytes).map_err(wrong)?;
                Ok((name, view))
            })
            .collect::<Result<Vec<_>, LoraError>>()?;
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let safetensors = safetensors::serialize(views, Some(format)).map_err(wrong)?;
        Ok(PeftFiles {
            config_json,
            safetensors,
        })
    }
}

impl LoraAdapter {
    /// Appends a part of a module to the module's tensors, which come last in
    /// `tensors` if an earlier part is there: below B its own rows, while A must
    /// be the same.
    fn append_part(
        &self,
        fused: &Fused,
        id: ModuleId,
        [a, mut b]: [NamedTensor; 2],
        tensors: &mut Vec<NamedTensor>,
    ) -> Result<(), LoraError> {
        let part = |projection| ModuleId { projection, ..id };
        let whole = fused
            .parts
            .iter()
            .all(|p| self.modules.contains_key(&part(*p)));
        if !whole {
            return Err(LoraError::TensorMissing(b.0));
        }
        if fused.parts.first() == Some(&id.projection) {
            tensors.extend([a, b]);
            return Ok(());
        }
        match tensors.as_mut_slice() {
            [.., first_a, first_b] if *first_a == a => {
                first_b.1[0] += b.1[0];
                first_b.2.append(&mut b.2);
                Ok(())
            }
            _ => Err(LoraError::PartsDiffer(a.0)),
        }
    }
}

type NamedTensor = (String, [usize; 2], Vec<u8>);

fn module_tensors(
    id: ModuleId,
    pair: &LoraPair,
    model: &ModelConfig,
    values: PeftValues,
) -> Result<[NamedTensor; 2], LoraError> {
    let (rows, cols) = model.projection_shape(id.projection);
    let reordered;
    let b = if permute::is_permuted(model, id.projection) && pair.b.len() == rows * pair.rank {
        reordered = permute::to_peft(&pair.b, pair.rank, model.head_dim);
        &reordered
    } else {
        &pair.b
    };
    let a = named_tensor(
        tensor_name(id, 'A', model.architecture),
        [pair.rank, cols],
        &pair.a,
        values,
    )?;
    Ok([
        a,
        named_tensor(
            tensor_name(id, 'B', model.architecture),
            [rows, pair.rank],
            b,
            values,
        )?,
    ])
}

fn named_tensor(
    name: String,
    expected: [usize; 2],
    values: &[f32],
    written: PeftValues,
) -> Result<NamedTensor, LoraError> {
    if values.len() != expected[0] * expected[1] {
        return Err(LoraError::TensorShape {
            name,
            expected,
            found: vec![values.len()],
        });
    }
    if !values.iter().all(|value| value.is_finite()) {
        return Err(LoraError::NotFinite(name));
    }
    let bytes = match written {
        PeftValues::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        PeftValues::F16 => {
            let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            if !halves.iter().all(|value| value.is_finite()) {
                return Err(LoraError::NotFinite(name));
            }
            halves.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
    };
    Ok((name, expected, bytes))
}
