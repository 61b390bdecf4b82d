//! Adapters from PEFT's two files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::config::Resolver;
use super::peft_config::PeftConfig;
use super::{LoraAdapter, LoraConfig, LoraError, LoraPair, ModuleId, permute};
use crate::ModelError;
use crate::architecture::Architecture;
use crate::config::ModelConfig;
use crate::kernels::all_finite;

/// The largest `adapter_config.json`.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// The largest `adapter_model.safetensors`.
pub const ADAPTER_BYTES_MAX: usize = 1 << 30;
/// The largest head of a safetensors file.
const HEADER_BYTES_MAX: usize = 4 << 20;

/// The name of one of a module's two tensors; `part` is `A` or `B`.
pub(super) fn tensor_name(id: ModuleId, part: char, architecture: &Architecture) -> String {
    let path = id.peft_path(architecture);
    format!("base_model.model.{path}.lora_{part}.weight")
}

/// An adapter's files, checked as a whole; its parts are read one by one, so that
/// whoever lays them out another way never holds all of them twice.
pub struct PeftReader<'a> {
    config: LoraConfig,
    ids: BTreeSet<ModuleId>,
    tensors: BTreeMap<String, TensorView<'a>>,
    model: &'a ModelConfig,
}

impl<'a> PeftReader<'a> {
    /// Opens the files of an adapter for `model`. All modules that the
    /// configuration targets must have their tensors, and no other tensor may be
    /// there.
    ///
    /// # Errors
    /// [`LoraError`], as [`ModelError::Adapter`].
    pub fn open(
        config_json: &[u8],
        safetensors: &'a [u8],
        model: &'a ModelConfig,
    ) -> Result<Self, ModelError> {
        at_most(
            "the size of adapter_config.json",
            config_json.len(),
            CONFIG_BYTES_MAX,
        )?;
        at_most(
            "the size of adapter_model.safetensors",
            safetensors.len(),
            ADAPTER_BYTES_MAX,
        )?;
        let PeftModules { config, ids } = PeftModules::read(config_json, model)?;
        let tensors = read_tensors(safetensors)?;
        let expected: BTreeSet<String> = ids
            .iter()
            .flat_map(|id| ['A', 'B'].map(|part| tensor_name(*id, part, model.architecture)))
            .collect();
        if let Some(name) = tensors.keys().find(|name| !expected.contains(*name)) {
            return Err(LoraError::TensorUnexpected(name.chars().take(160).collect()).into());
        }
        if let Some(name) = expected.iter().find(|name| !tensors.contains_key(*name)) {
            return Err(LoraError::TensorMissing(name.clone()).into());
        }
        Ok(Self {
            config,
            ids,
            tensors,
            model,
        })
    }

    /// The modules, and each one's rank as its tensor says; whether that is
    /// true is seen when the parts are read.
    pub fn ranks(&self) -> impl Iterator<Item = (ModuleId, usize)> + '_ {
        self.ids.iter().filter_map(|id| {
            let name = tensor_name(*id, 'A', self.model.architecture);
            let rank = *self.tensors.get(&name)?.shape().first()?;
            Some((*id, rank.min(super::RANK_MAX)))
        })
    }

    /// How many modules there are.
    pub fn module_count(&self) -> usize {
        self.ids.len()
    }

    /// Reads the parts in the order of the modules.
    ///
    /// # Errors
    /// As [`Self::open`], for the first part that cannot be used.
    pub fn for_each(&self, each: impl FnMut(ModuleId, LoraPair)) -> Result<(), ModelError> {
        self.for_each_of(0..self.module_count(), each)
    }

    /// The same for some of the modules, by their places in that order.
    ///
    /// # Errors
    /// As [`Self::for_each`].
    pub fn for_each_of(
        &self,
        places: Range<usize>,
        mut each: impl FnMut(ModuleId, LoraPair),
    ) -> Result<(), ModelError> {
        let resolver = self.config.resolver(self.model.architecture)?;
        for id in self.ids.iter().skip(places.start).take(places.len()) {
            each(*id, read_pair(&self.tensors, *id, self.model, &resolver)?);
        }
        Ok(())
    }
}

impl LoraAdapter {
    /// Reads a whole adapter for `model`; see [`PeftReader`].
    ///
    /// # Errors
    /// [`LoraError`], as [`ModelError::Adapter`].
    pub fn from_peft(
        config_json: &[u8],
        safetensors: &[u8],
        model: &ModelConfig,
    ) -> Result<Self, ModelError> {
        let reader = PeftReader::open(config_json, safetensors, model)?;
        let mut modules = BTreeMap::new();
        reader.for_each(|id, pair| {
            modules.insert(id, pair);
        })?;
        let config = reader.config;
        Ok(Self { config, modules })
    }
}

/// A configuration and the modules of a model that it names.
struct PeftModules {
    config: LoraConfig,
    ids: BTreeSet<ModuleId>,
}

impl PeftModules {
    fn read(config_json: &[u8], model: &ModelConfig) -> Result<Self, LoraError> {
        let peft = PeftConfig::parse(config_json)?;
        let ids = peft.targeted(model)?;
        let mut config = peft.lora;
        let projections: BTreeSet<_> = ids.iter().map(|id| id.projection).collect();
        config.target = projections.into_iter().collect();
        Ok(Self { config, ids })
    }
}

fn at_most(what: &'static str, found: usize, max: usize) -> Result<(), LoraError> {
    if found > max {
        Err(LoraError::TooLarge { what, found, max })
    } else {
        Ok(())
    }
}

/// The tensors of a file, by name.
fn read_tensors(file: &[u8]) -> Result<BTreeMap<String, TensorView<'_>>, LoraError> {
    if let Some(len) = file.first_chunk::<8>() {
        let len = usize::try_from(u64::from_le_bytes(*len)).unwrap_or(usize::MAX);
        at_most(
            "the head of adapter_model.safetensors",
            len,
            HEADER_BYTES_MAX,
        )?;
    }
    let parsed =
        SafeTensors::deserialize(file).map_err(|e| LoraError::Safetensors(e.to_string()))?;
    Ok(parsed.tensors().into_iter().collect())
}

fn read_pair(
    tensors: &BTreeMap<String, TensorView<'_>>,
    id: ModuleId,
    model: &ModelConfig,
    resolver: &Resolver<'_>,
) -> Result<LoraPair, LoraError> {
    let (rank, scale) = resolver.rank_and_scale(id)?;
    let cols = model.projection_shape(id.projection).1;
    let (all, rows) = model.rows_in_module(id.projection);
    let name = |part| tensor_name(id, part, model.architecture);
    let a = read_matrix(tensors, name('A'), [rank, cols])?;
    let mut b = read_matrix(tensors, name('B'), [all, rank])?;
    b.truncate(rows.end * rank);
    b.drain(..rows.start * rank);
    let b = if permute::is_permuted(model, id.projection) {
        permute::to_gguf(&b, rank, model.head_dim)
    } else {
        b
    };
    Ok(LoraPair { rank, scale, a, b })
}

fn read_matrix(
    tensors: &BTreeMap<String, TensorView<'_>>,
    name: String,
    expected: [usize; 2],
) -> Result<Vec<f32>, LoraError> {
    let Some(tensor) = tensors.get(&name) else {
        return Err(LoraError::TensorMissing(name));
    };
    if tensor.shape() != expected {
        let found = tensor.shape().to_vec();
        return Err(LoraError::TensorShape {
            name,
            expected,
            found,
        });
    }
    let bytes = tensor.data();
    let pairs = bytes.as_chunks::<2>().0.iter();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Dtype::F16 => pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => {
            return Err(LoraError::TensorType {
                name,
                found: format!("{other:?}"),
            });
        }
    };
    if all_finite(&values) {
        Ok(values)
    } else {
        Err(LoraError::NotFinite(name))
    }
}
