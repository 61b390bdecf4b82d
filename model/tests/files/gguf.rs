//! GGUF heads written by hand, each with one thing wrong.

use std::fs;
use std::io::Write as _;

use model::gguf::{Gguf, Value};
use model::{BaseModel, ModelError};

use crate::golden;

const UNSIGNED_32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A GGUF file in the making.
#[derive(Default)]
struct File {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data_len: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl File {
    fn with(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.metadata
            .extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self.metadata_count += 1;
        self
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.extend(text(name));
        self.tensors
            .extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
        self.tensors
            .extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    fn data(self, data_len: usize) -> Self {
        Self { data_len, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.metadata_count.to_le_bytes());
        bytes.extend(&self.metadata);
        bytes.extend(&self.tensors);
        bytes.resize(bytes.len().next_multiple_of(32) + self.data_len, 0);
        bytes
    }

    fn parse(&self) -> Result<Gguf, ModelError> {
        Gguf::parse(&self.bytes())
    }
}

fn limit(found: Result<Gguf, ModelError>) -> u64 {
    match found {
        Err(ModelError::Limit { max, .. }) => max,
        other => panic!("{other:?}"),
    }
}

fn problem(found: Result<Gguf, ModelError>) -> &'static str {
    match found {
        Err(ModelError::Gguf { problem, .. } | ModelError::Metadata { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_and_tensors_are_found() {
    let list = [
        &STRING.to_le_bytes()[..],
        &2u64.to_le_bytes(),
        &text("a"),
        &text("b"),
    ]
    .concat();
    let file = File::default()
        .with("n", UNSIGNED_32, &7u32.to_le_bytes())
        .with("list", ARRAY, &list)
        .tensor("m", &[64, 2], 3, 32)
        .data(32 + 80);
    let gguf = file.parse().unwrap();
    assert_eq!(gguf.value("n").and_then(Value::as_u64), Some(7));
    let list = gguf.value("list").and_then(Value::as_array).unwrap();
    assert_eq!(
        list.iter().filter_map(Value::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );
    let tensor = gguf.tensor("m").unwrap();
    assert_eq!(
        (tensor.kind.name, tensor.shape.as_slice()),
        ("Q4_1", &[2, 64][..])
    );
    assert_eq!(tensor.range, file.bytes().len() - 80..file.bytes().len());
    assert!(matches!(gguf.tensor("x"), Err(ModelError::TensorMissing(name)) if name == "x"));
}

#[test]
fn counts_and_lengths_are_limited() {
    let with_counts = |tensors: u64, metadata: u64| {
        let file = File {
            tensor_count: tensors,
            metadata_count: metadata,
            ..File::default()
        };
        file.parse()
    };
    assert_eq!(limit(with_counts((1 << 16) + 1, 0)), 1 << 16);
    assert_eq!(limit(with_counts(0, 4097)), 4096);
    assert_eq!(limit(with_counts(u64::MAX, u64::MAX)), 1 << 16);
    assert!(problem(with_counts(1 << 16, 4096)).contains("too early"));
    assert_eq!(
        limit(File::default().with(&"k".repeat(1025), 0, &[0]).parse()),
        1024
    );
    assert!(
        File::default()
            .with(&"k".repeat(1024), 0, &[0])
            .parse()
            .is_ok()
    );
    let long = File::default().with("k", STRING, &u64::MAX.to_le_bytes());
    assert_eq!(limit(long.parse()), 1 << 20);
    let array = [&0u32.to_le_bytes()[..], &((1u64 << 23) + 1).to_le_bytes()].concat();
    assert_eq!(
        limit(File::default().with("k", ARRAY, &array).parse()),
        1 << 23
    );
    let name = "t".repeat(257);
    assert_eq!(
        limit(File::default().tensor(&name, &[1], 0, 0).parse()),
        256
    );
    let huge = File::default().tensor("t", &[1 << 30, 1 << 30, 1 << 30, 1 << 30], 0, 0);
    assert_eq!(limit(huge.parse()), 1 << 36);
}

#[test]
fn damaged_heads_are_named() {
    let nested = |depth: usize| {
        let inner = [&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
        let level = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        File::default().with("k", ARRAY, &[level.repeat(depth), inner].concat())
    };
    assert!(nested(1).parse().is_ok());
    assert!(problem(nested(2).parse()).contains("deep"));
    assert!(problem(File::default().with("k", 7, &[2]).parse()).contains("truth"));
    assert!(problem(File::default().with("k", 13, &[]).parse()).contains("type"));
    let twice = File::default().with("k", 0, &[1]).with("k", 0, &[1]);
    assert!(problem(twice.parse()).contains("one key"));
    let bad_text = [&1u64.to_le_bytes()[..], &[0xff]].concat();
    assert!(problem(File::default().with("k", STRING, &bad_text).parse()).contains("UTF-8"));
    for alignment in [0u32, 4, 24, 1 << 17] {
        let file = File::default().with("general.alignment", UNSIGNED_32, &alignment.to_le_bytes());
        assert!(
            problem(file.parse()).contains("power of two"),
            "{alignment}"
        );
    }
    let tensor = |dimensions: &[u64], offset| {
        File::default()
            .tensor("t", dimensions, 3, offset)
            .data(20)
            .parse()
    };
    assert!(tensor(&[32], 0).is_ok());
    assert!(problem(tensor(&[], 0)).contains("dimensions"));
    assert!(problem(tensor(&[32, 1, 1, 1, 1], 0)).contains("dimensions"));
    assert!(problem(tensor(&[32, 0], 0)).contains("empty"));
    assert!(problem(tensor(&[33], 0)).contains("whole blocks"));
    assert!(problem(tensor(&[32], 1)).contains("aligned"));
    assert!(problem(tensor(&[64], 0)).contains("after the end"));
    assert!(problem(tensor(&[32], u64::MAX - 31)).contains("after the end"));
    let two = File::default()
        .tensor("t", &[32], 3, 0)
        .tensor("t", &[32], 3, 0)
        .data(20);
    assert!(problem(two.parse()).contains("one name"));
    let mut version = File::default().bytes();
    version[4] = 1;
    assert!(problem(Gguf::parse(&version)).contains("version"));
}

/// The tiny model with every place of some bytes replaced by others.
fn replaced(from: &[u8], to: &[u8]) -> Result<BaseModel, ModelError> {
    assert_eq!(from.len(), to.len());
    let mut file = fs::read(golden("tiny_llama/model.gguf")).unwrap();
    let places: Vec<usize> = file
        .windows(from.len())
        .enumerate()
        .filter(|(_, w)| *w == from)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty());
    for at in places {
        file[at..at + to.len()].copy_from_slice(to);
    }
    let mut copy = tempfile::NamedTempFile::new().unwrap();
    copy.write_all(&file).unwrap();
    BaseModel::open(copy.path())
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let architecture = replaced(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba");
    assert!(
        matches!(architecture, Err(ModelError::UnsupportedArchitecture(name)) if name == "mamba")
    );
    // After the name: two dimensions of 32, then the type, f32 to Q8_1 and to none.
    let q = |kind: u8| {
        let head = |kind| {
            [
                &b"blk.0.attn_q.weight\x02\0\0\0"[..],
                &[32, 0, 0, 0, 0, 0, 0, 0].repeat(2),
                &[kind],
            ]
            .concat()
        };
        replaced(&head(0), &head(kind))
    };
    let is_refused = |found, expected: &str| {
        matches!(found, Err(ModelError::UnsupportedFormat { tensor, format })
            if tensor == "blk.0.attn_q.weight" && format == expected)
    };
    let others = [
        (9, "Q8_1"),
        (20, "IQ4_NL"),
        (24, "I8"),
        (28, "F64"),
        (39, "MXFP4"),
    ];
    for (kind, name) in others {
        assert!(is_refused(q(kind), name), "{name}");
    }
    assert!(is_refused(q(99), "type 99"));
    let missing = replaced(b"blk.1.ffn_up.weight", b"blk.1.ffn_xp.weight");
    assert!(
        matches!(missing, Err(ModelError::TensorMissing(name)) if name == "blk.1.ffn_up.weight")
    );
    let pre = replaced(b"smollm", b"mystic");
    assert!(matches!(pre, Err(ModelError::Metadata { key, .. }) if key == "tokenizer.ggml.pre"));
    let merge = replaced("Ġt he".as_bytes(), "Ġt ha".as_bytes());
    assert!(
        matches!(merge, Err(ModelError::Metadata { key, .. }) if key == "tokenizer.ggml.merges")
    );
    let template = replaced(b"{% endfor %}", b"{% endfop %}");
    assert!(matches!(template, Err(ModelError::Template(_))));
}
