//! One model that mistralrs runs: the base, or the base with an adapter version.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use engine::EngineError;
use engine::parts::Vocabulary;
use mistralrs::core::{
    AdapterPaths, AutoDeviceMapParams, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder,
    GGUFSpecificConfig, Loader, LocalModelPaths, MemoryGpuConfig, MistralRs, MistralRsBuilder,
    ModelDType, ModelPaths, MultimodalLoaderBuilder, MultimodalSpecificConfig, NormalLoaderBuilder,
    NormalRequest, NormalSpecificConfig, PagedAttentionConfig, PagedCacheType, Pipeline, Request,
    SchedulerConfig, paged_attn_supported, parse_isq_value,
};
use mistralrs::{Device, best_device};
use model::PublishedModel;
use serde_json::Value as Json;

use crate::base::{Base, Form, takes_more_than_text};
use crate::kinds::Handed;
use crate::older::older;
use crate::options::{MistralOptions, PREFIX_SEQUENCES_MAX};
use crate::prompt::{Decode, Encode, Foreign, Prompts};
use crate::sight::Sight;
use crate::spelling::{bare, spelled};
use crate::words::Words;

/// Stack of a loading thread.
const STACK_BYTES: usize = 8 << 20;

/// Sequences at once where there is no paged attention. The crate's attention on
/// CPUs gives each sequence of a decoding batch what the last one's is: it adds the
/// parts of all of them up in one place (0.8.1, `flash_attn_cpu_single_q`).
const UNPAGED_MAX: u32 = 1;

/// What loading needs to know beside the weights.
pub(crate) struct Plan {
    pub(crate) base: Arc<Base>,
    pub(crate) options: MistralOptions,
}

/// A running model. It ends with its last handle.
pub(crate) struct Instance {
    model: Arc<MistralRs>,
    /// The longest sequence.
    pub(crate) context_length: usize,
    /// How many sequences it may have at once.
    pub(crate) sequences_max: u32,
    /// What ends a sequence where our own choice says that it has ended.
    pub(crate) stop_token: Option<u32>,
}

/// The base's instance, and what all instances have in common.
pub(crate) struct Opened {
    pub(crate) instance: Instance,
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) prompts: Prompts,
}

impl Plan {
    /// Loads the base.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Opened, String> {
        let weights = self.base.weights();
        self.on_a_thread(move |plan| {
            let pipeline = plan.pipeline(&weights)?;
            let template = pipeline.blocking_lock().get_chat_template();
            if template.is_some_and(|template| template.is_harmony_format()) {
                return Err("its template is in Harmony's format, whose tokens the crate would fetch from the network".to_owned());
            }
            let (vocabulary, prompts) = plan.words(&pipeline)?;
            Ok(Opened {
                instance: plan.start(pipeline)?,
                vocabulary,
                prompts,
            })
        })
    }

    /// Loads the model from other weights.
    pub(crate) fn load(self: &Arc<Self>, weights: Vec<PathBuf>) -> Result<Instance, String> {
        self.on_a_thread(move |plan| plan.start(plan.pipeline(&weights)?))
    }

    /// The crate panics on some files that it does not like, and keeps things in
    /// the thread that loads: both end with a thread of its own.
    fn on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let plan = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("mistralrs-load".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || work(&plan))
            .map_err(|error| error.to_string())?;
        thread.join().unwrap_or_else(|panic| Err(message(&*panic)))
    }

    fn pipeline(&self, weights: &[PathBuf]) -> Result<Shared, String> {
        let device = best_device(false).map_err(|error| error.to_string())?;
        let on_cpu = matches!(device, Device::Cpu);
        let scratch = self.options.scratch().map_err(|error| error.to_string())?;
        let (loader, paths) = match &self.base.form {
            Form::Gguf { .. } => self.gguf(weights),
            Form::Folder(folder) => self.folder(folder, weights, scratch.path())?,
        };
        let isq = self.options.isq.as_deref();
        let isq = isq
            .map(|name| parse_isq_value(name, Some(&device)))
            .transpose()?;
        // on a CPU half precision is slower, and rounds
        let (dtype, mapping) = if on_cpu {
            (ModelDType::F32, DeviceMapSetting::dummy())
        } else {
            let params = match is_multimodal(&self.base) {
                true => AutoDeviceMapParams::default_multimodal(),
                false => AutoDeviceMapParams::default_text(),
            };
            (ModelDType::Auto, DeviceMapSetting::Auto(params))
        };
        let paged = if !on_cpu && paged_attn_supported() {
            let context = self.options.context_length_max.unwrap_or(4096);
            let tokens = context.saturating_mul(self.options.running_max) as usize;
            let memory = MemoryGpuConfig::ContextSize(tokens);
            let config = PagedAttentionConfig::new(None, memory, PagedCacheType::Auto);
            Some(config.map_err(|error| error.to_string())?)
        } else {
            None
        };
        loader
            .load_model_from_path(&paths, &dtype, &device, true, mapping, isq, paged)
            .map_err(|error| format!("{error:#}"))
    }

    fn gguf(&self, weights: &[PathBuf]) -> Source {
        let names = weights.iter().map(|path| path.display().to_string());
        let loader = GGUFLoaderBuilder::new(
            None,
            None,
            self.base.name.clone(),
            names.collect(),
            GGUFSpecificConfig::default(),
            false,
            None,
        );
        let paths = paths(weights);
        (loader.build(), Box::new(paths))
    }

    fn folder(
        &self,
        published: &PublishedModel,
        weights: &[PathBuf],
        scratch: &Path,
    ) -> Result<Source, String> {
        let config = scratch.join("config.json");
        let text = Json::Object(older(&published.config_json)).to_string();
        std::fs::write(&config, text).map_err(|error| error.to_string())?;
        let folder = &self.base.path;
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        let template = file("chat_template.jinja").or_else(|| file("tokenizer_config.json"));
        let paths = LocalModelPaths {
            tokenizer_filename: folder.join("tokenizer.json"),
            config_filename: config,
            template_filename: template,
            gen_conf: file("generation_config.json"),
            preprocessor_config: file("preprocessor_config.json"),
            processor_config: file("processor_config.json"),
            chat_template_json_filename: file("chat_template.json"),
            ..paths(weights)
        };
        let (paths, template) = match &self.base.sight {
            Ok(sight) => for_images(sight, folder, paths, scratch)?,
            Err(_) => (paths, None),
        };
        let name = Some(self.base.name.clone());
        let loader = if is_multimodal(&self.base) {
            let config = MultimodalSpecificConfig::default();
            MultimodalLoaderBuilder::new(config, None, None, name, template).build(None)
        } else {
            let config = NormalSpecificConfig::default();
            let loader = NormalLoaderBuilder::new(config, None, None, name, false, None);
            loader.build(None).map_err(|error| error.to_string())?
        };
        Ok((loader, Box::new(paths)))
    }

    /// Starts the crate's own engine on a loaded model.
    fn start(&self, pipeline: Shared) -> Result<Instance, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let metadata = pipeline.blocking_lock().get_metadata();
        let (scheduler, sequences_max) = match metadata.cache_config.clone() {
            Some(config) => {
                let max = self.options.running_max.max(1);
                let max_num_seqs = max as usize;
                let paged = SchedulerConfig::PagedAttentionMeta {
                    max_num_seqs,
                    config,
                };
                (paged, max)
            }
            None => {
                let method = DefaultSchedulerMethod::Fixed(NonZeroUsize::MIN);
                (SchedulerConfig::DefaultScheduler { method }, UNPAGED_MAX)
            }
        };
        let trie = metadata.tok_env();
        // the crate refuses as a stop what other tokens begin with
        let stop_token = metadata.eos_tok.iter().copied().find(|&id| {
            trie.as_ref().is_some_and(|environment| {
                let trie = environment.tok_trie();
                !trie.has_extensions(trie.token(id))
            })
        });
        let builder = MistralRsBuilder::new(pipeline, scheduler, false, None)
            .with_no_prefix_cache(!self.options.prefix_cache)
            .with_prefix_cache_n(PREFIX_SEQUENCES_MAX)
            .with_disable_eos_stop(true);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed(&e))?;
        Ok(Instance {
            model: runtime.block_on(builder.build()),
            context_length: metadata.max_seq_len,
            sequences_max,
            stop_token,
        })
    }

    /// The tokens and prompts of the model that was loaded.
    fn words(&self, pipeline: &Shared) -> Result<(Arc<dyn Vocabulary>, Prompts), String> {
        if let Form::Gguf {
            known: Some(model), ..
        } = &self.base.form
        {
            return Ok((model.clone(), Prompts::Known(model.clone())));
        }
        let pipeline = pipeline.blocking_lock();
        let metadata = pipeline.get_metadata();
        let environment = metadata.tok_env().ok_or("the model has no tokens")?;
        let words = Words::new(environment.tok_trie(), metadata.eos_tok.clone());
        let crates = pipeline.tokenizer().ok_or("the model has no tokenizer")?;
        let (tokenizer, misspelt) = match &self.base.sight {
            Ok(sight) if sight.handed == Handed::Spelled => {
                let own = Json::Object(bare(&self.base.path)?).to_string();
                let ids: BTreeSet<u32> = crates.get_vocab(true).into_values().collect();
                let ids: Vec<u32> = ids.into_iter().collect();
                let text = crates.decode(&ids, false).map_err(|e| e.to_string())?;
                let read = crates.encode_fast(text, false).map_err(|e| e.to_string())?;
                (parsed(&crates, &own)?, read.get_ids() != ids)
            }
            _ => (Arc::clone(&crates), false),
        };
        let specials: BTreeMap<String, u32> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        let decoder = Arc::clone(&tokenizer);
        let decode: Decode = Box::new(move |tokens| {
            let text = decoder.decode(tokens, false);
            text.map_err(|e| e.to_string())
        });
        let spell: Decode = Box::new(move |tokens| {
            let text = crates.decode(tokens, false);
            text.map_err(|e| e.to_string())
        });
        let mut text_only = (*tokenizer).clone();
        text_only.set_encode_special_tokens(true);
        let encode: Encode = Box::new(move |text| {
            let encoding = tokenizer.encode_fast(text, false);
            Ok(encoding.map_err(|e| e.to_string())?.get_ids().to_vec())
        });
        let encode_text: Encode = Box::new(move |text| {
            let encoding = text_only.encode_fast(text, false);
            Ok(encoding.map_err(|e| e.to_string())?.get_ids().to_vec())
        });
        let template = self.base.template().map_err(|error| error.to_string())?;
        let mut foreign = Foreign {
            takes_parts_alone: Foreign::wants_parts(&template),
            template,
            encode,
            encode_text,
            decode,
            spell,
            specials,
            sight: self.base.sight.as_ref().ok().cloned(),
        };
        let misspelt = misspelt.then(|| "its tokens cannot be told by their names".to_owned());
        let reason = misspelt.or_else(|| foreign.blind());
        let reason = reason.or_else(|| self.base.sight.clone().err());
        if let Some(reason) = reason {
            foreign.sight = None;
            if is_multimodal(&self.base) {
                tracing::warn!(reason, "the model is served without images");
            }
        }
        Ok((Arc::new(words), Prompts::Foreign(Box::new(foreign))))
    }
}

impl Instance {
    /// Hands a sequence over.
    pub(crate) async fn submit(&self, request: NormalRequest) -> Result<(), EngineError> {
        let sender = self.model.get_sender(None);
        let sender = sender.map_err(|error| EngineError::Failed(error.to_string()))?;
        let sent = sender.send(Request::Normal(Box::new(request))).await;
        sent.map_err(|_| EngineError::Stopped)
    }
}

/// What reads a model, and where from.
type Source = (Box<dyn Loader>, Box<dyn ModelPaths>);

type Shared = Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>;

fn paths(weights: &[PathBuf]) -> LocalModelPaths<PathBuf> {
    LocalModelPaths {
        tokenizer_filename: PathBuf::new(),
        config_filename: PathBuf::new(),
        template_filename: None,
        filenames: weights.to_vec(),
        adapter_paths: AdapterPaths::None,
        gen_conf: None,
        preprocessor_config: None,
        processor_config: None,
        chat_template_json_filename: None,
    }
}

/// The crate's template where prompts are made by ours: it writes what it is given.
const PROMPT_AS_IT_IS: &str = "{{ messages[0]['content'] }}";

/// A folder's files for a model that is shown images: the crate prepares nothing,
/// and makes of our prompt's text the tokens that we made of it. The second is the
/// template.
fn for_images(
    sight: &Sight,
    folder: &Path,
    paths: LocalModelPaths<PathBuf>,
    scratch: &Path,
) -> Result<(LocalModelPaths<PathBuf>, Option<String>), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let write = |name: &str, bytes: &[u8]| {
        let path = scratch.join(name);
        std::fs::write(&path, bytes).map_err(|e| failed(&e))?;
        Ok::<PathBuf, String>(path)
    };
    let mut tokenizer = bare(folder)?;
    if sight.handed == Handed::Spelled {
        tokenizer = spelled(&tokenizer)?;
    }
    let tokenizer = Json::Object(tokenizer).to_string();
    let template = write("prompt.jinja", PROMPT_AS_IT_IS.as_bytes())?;
    let preprocessor = sight.preprocessor().to_string();
    let processor = sight.processor().to_string();
    let paths = LocalModelPaths {
        tokenizer_filename: write("tokenizer.json", tokenizer.as_bytes())?,
        preprocessor_config: Some(write("preprocessor_config.json", preprocessor.as_bytes())?),
        processor_config: Some(write("processor_config.json", processor.as_bytes())?),
        ..paths
    };
    Ok((paths, Some(template.display().to_string())))
}

/// A tokenizer of the version that the crate reads.
fn parsed<T: FromStr<Err: std::fmt::Display>>(_: &Arc<T>, json: &str) -> Result<Arc<T>, String> {
    json.parse()
        .map(Arc::new)
        .map_err(|e: T::Err| e.to_string())
}

/// Whether the crate's loader of models that take more than text is to be asked.
fn is_multimodal(base: &Base) -> bool {
    match &base.form {
        Form::Folder(folder) => takes_more_than_text(folder),
        Form::Gguf { .. } => false,
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
    text.unwrap_or_else(|| "loading panicked".to_owned())
}
