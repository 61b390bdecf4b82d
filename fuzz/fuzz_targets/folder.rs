//! A folder as published: `config.json`, `tokenizer_config.json`,
//! `tokenizer.json` and `model.safetensors`.
#![no_main]

use std::cell::OnceCell;

use flywheel_fuzz::{Scratch, parts};
use libfuzzer_sys::fuzz_target;
use model::{BaseModel, FolderFormat, TemplateMessage};

const NAMES: [&str; 4] = [
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "model.safetensors",
];
const TEXT: &str = "Hello <|im_end|> wörld,  12345 tokens\n\n\t🦡 it's";

thread_local! {
    static SCRATCH: OnceCell<Scratch> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    SCRATCH.with(|scratch| open(scratch.get_or_init(|| Scratch::new("folder")), input));
});

fn open(scratch: &Scratch, input: &[u8]) {
    let files = parts(input, NAMES.len());
    for (i, name) in NAMES.iter().enumerate() {
        match files.get(i) {
            Some(file) => {
                scratch.write(name, file);
            }
            None => scratch.remove(name),
        }
    }
    let Ok(model) = BaseModel::open_quantized(scratch.path(), FolderFormat::Q8_0) else {
        return;
    };
    if let Ok(ids) = model.tokenizer.encode(TEXT, true) {
        let _ = model.tokenizer.decode(&ids, true);
    }
    let message = TemplateMessage {
        role: "user",
        content: TEXT,
    };
    let _ = model.encode_chat(&[message], true);
}
