//! The tiny model split into parts, as llama.cpp's `gguf-split` does it.

use std::fs;
use std::path::{Path, PathBuf};

use model::gguf::{Gguf, TensorInfo};
use model::{BaseModel, ModelError, Projection};

use crate::{golden, tiny_model};

const PARTS: u16 = 3;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn number(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

/// A part with some tensors of `file`; `metadata` are `count` entries beside
/// the part's own.
fn part(file: &[u8], (metadata, count): (&[u8], u64), no: u16, tensors: &[&TensorInfo]) -> Vec<u8> {
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((count + 3).to_le_bytes());
    bytes.extend(metadata);
    bytes.extend(number("split.no", 2, &no.to_le_bytes()));
    bytes.extend(number("split.count", 2, &PARTS.to_le_bytes()));
    bytes.extend(number("split.tensors.count", 5, &21i32.to_le_bytes()));
    let mut data = Vec::new();
    for tensor in tensors {
        bytes.extend(text(&tensor.name));
        bytes.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
        let dimensions = tensor.shape.iter().rev();
        bytes.extend(dimensions.flat_map(|d| (*d as u64).to_le_bytes()));
        bytes.extend(tensor.kind.id.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(&file[tensor.range.clone()]);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend(data);
    bytes
}

fn path(folder: &Path, no: u16) -> PathBuf {
    folder.join(format!("tiny-{:05}-of-{PARTS:05}.gguf", no + 1))
}

/// Writes the parts and gives the first one's path.
fn split(folder: &Path) -> PathBuf {
    let file = fs::read(golden("tiny_llama/model.gguf")).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let first_tensor = text("token_embd.weight");
    let tensors_at = file
        .windows(first_tensor.len())
        .position(|w| w == first_tensor)
        .unwrap();
    let count = u64::from_le_bytes(file[16..24].try_into().unwrap());
    let mut tensors: Vec<&TensorInfo> = gguf.tensors().collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    assert_eq!(tensors.len(), 21);
    for (no, tensors) in (0..PARTS).zip(tensors.chunks(7)) {
        let metadata = match no {
            0 => (&file[24..tensors_at], count),
            _ => (&[][..], 0),
        };
        fs::write(path(folder, no), part(&file, metadata, no, tensors)).unwrap();
    }
    path(folder, 0)
}

fn weights(model: &BaseModel) -> Vec<f32> {
    let layers = model.weights.layers.iter();
    let matrices = layers.flat_map(|layer| Projection::ALL.map(|p| layer.projection(p)));
    let mut all = model.weights.output_norm.clone();
    for matrix in matrices.chain([&model.weights.token_embedding, model.weights.head()]) {
        let mut weights = vec![f32::NAN; matrix.rows() * matrix.cols()];
        matrix.dequantize_rows(0..matrix.rows(), &mut weights);
        all.extend(weights);
    }
    all
}

#[test]
fn a_model_in_parts_is_the_same_model_and_its_digest_covers_all() {
    let folder = tempfile::tempdir().unwrap();
    let first = split(folder.path());
    let model = BaseModel::open(&first).unwrap();
    assert_eq!(model.name, "tiny");
    assert_eq!(model.config, tiny_model().config);
    assert_eq!(weights(&model), weights(tiny_model()));
    let last = path(folder.path(), PARTS - 1);
    let mut bytes = fs::read(&last).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&last, bytes).unwrap();
    assert_ne!(BaseModel::open(&first).unwrap().digest, model.digest);
}

#[test]
fn parts_that_are_missing_or_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = split(folder.path());
    let key = |error| match error {
        Err(ModelError::Metadata { key, .. }) => key,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("was taken"),
    };
    let second = path(folder.path(), 1);
    assert_eq!(key(BaseModel::open(&second)), "split.no");
    let renamed = folder.path().join("other.gguf");
    fs::copy(&first, &renamed).unwrap();
    assert_eq!(key(BaseModel::open(&renamed)), "split.count");
    let third = path(folder.path(), 2);
    let good = fs::read(&third).unwrap();
    fs::copy(&second, &third).unwrap();
    assert_eq!(key(BaseModel::open(&first)), "split.no");
    fs::write(&third, good).unwrap();
    assert!(BaseModel::open(&first).is_ok());
    fs::remove_file(&second).unwrap();
    let missing = BaseModel::open(&first).err().unwrap();
    assert!(matches!(&missing, ModelError::Io { path, .. } if *path == second));
    assert!(missing.to_string().contains("tiny-00002-of-00003.gguf"));
}

#[test]
fn the_number_of_parts_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    let first = split(folder.path());
    let mut bytes = fs::read(&first).unwrap();
    let key = b"split.count\x02\0\0\0";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at..at + 2].copy_from_slice(&513u16.to_le_bytes());
    fs::write(&first, bytes).unwrap();
    assert!(matches!(
        BaseModel::open(&first),
        Err(ModelError::Limit {
            found: 513,
            max: 512,
            ..
        })
    ));
}
