//! Cut and altered files: always an error or a model, never a panic.

use std::fs;
use std::io::Write as _;

use model::gguf::Gguf;
use model::lora::LoraAdapter;
use model::{BaseModel, ModelError};
use proptest::prelude::*;

use crate::{golden, tiny_model};

fn gguf_file() -> Vec<u8> {
    fs::read(golden("tiny_llama/model.gguf")).unwrap()
}

/// Where the head of the file ends: all before it is structure.
fn head_len(file: &[u8]) -> usize {
    let gguf = Gguf::parse(file).unwrap();
    gguf.tensors()
        .map(|tensor| tensor.range.start)
        .min()
        .unwrap()
}

fn open(bytes: &[u8]) -> Result<BaseModel, ModelError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    BaseModel::open(file.path())
}

#[test]
fn a_gguf_cut_off_at_any_byte_is_refused() {
    let file = gguf_file();
    let head = head_len(&file);
    let cuts = (0..head)
        .chain((head..file.len()).step_by(61))
        .chain([file.len() - 1]);
    for cut in cuts {
        assert!(Gguf::parse(&file[..cut]).is_err(), "cut at {cut} was taken");
    }
    assert!(open(&file[..file.len() / 2]).is_err());
    assert!(open(b"").is_err());
    assert!(open(&file).is_ok());
}

#[test]
fn each_byte_of_a_ggufs_head_may_have_any_of_its_extremes() {
    let file = gguf_file();
    let head = head_len(&file);
    for at in 0..head {
        for value in [0, 0x7f, 0x80, 0xff, file[at] ^ 1] {
            let mut altered = file.clone();
            altered[at] = value;
            if let Ok(gguf) = Gguf::parse(&altered) {
                assert!(
                    gguf.tensors()
                        .all(|tensor| tensor.range.end <= altered.len())
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_model_with_altered_bytes_opens_or_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut file = gguf_file();
        let head = head_len(&file);
        for (at, value) in changes {
            file[at.index(head)] = value;
        }
        if let Ok(model) = open(&file) {
            let ids = model.tokenizer.encode("the thing 12", true).unwrap();
            let _ = model.tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn an_adapter_with_altered_bytes_is_read_or_refused(
        in_config in any::<bool>(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let folder = golden("tiny_llama/adapter_patterns");
        let mut config = fs::read(folder.join("adapter_config.json")).unwrap();
        let mut weights = fs::read(folder.join("adapter_model.safetensors")).unwrap();
        let altered = if in_config { &mut config } else { &mut weights };
        let len = altered.len();
        altered[at.index(len)] = value;
        if let Some(cut) = cut {
            altered.truncate(cut.index(len));
        }
        let adapter = LoraAdapter::from_peft(&config, &weights, &tiny_model().config);
        prop_assert!(adapter.is_err() || cut.is_none());
        if let Ok(adapter) = adapter {
            adapter.to_peft(&tiny_model().config).unwrap();
        }
    }
}

#[test]
fn an_adapter_cut_off_at_any_byte_is_refused() {
    let folder = golden("tiny_llama/adapter_layer_bf16");
    let config = fs::read(folder.join("adapter_config.json")).unwrap();
    let weights = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let model = &tiny_model().config;
    assert!(
        (0..weights.len()).all(|n| LoraAdapter::from_peft(&config, &weights[..n], model).is_err())
    );
    // The last byte of the JSON may be white space.
    let json = config.trim_ascii_end();
    assert!((0..json.len()).all(|n| LoraAdapter::from_peft(&json[..n], &weights, model).is_err()));
}
