//! A GGUF file, whole or in up to three parts: heads, metadata, the tokenizer,
//! the chat template and the weights. What opens must also encode and decode.
#![no_main]

use std::cell::OnceCell;

use flywheel_fuzz::{Scratch, parts};
use libfuzzer_sys::fuzz_target;
use model::gguf::Gguf;
use model::{BaseModel, TemplateMessage, Tokenizer};

const TEXT: &str = "Hello <|im_end|> wörld,  12345 tokens\n\n\t🦡 it's <s>▁</s>";

thread_local! {
    static SCRATCH: OnceCell<Scratch> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| {
    let Some((count, input)) = input.split_first() else {
        return;
    };
    let count = 1 + usize::from(count % 3);
    let files = parts(input, count);
    for file in &files {
        if let Ok(gguf) = Gguf::parse(file) {
            assert!(gguf.tensors().all(|tensor| tensor.range.end <= file.len()));
            if let Ok(tokenizer) = Tokenizer::read(&gguf) {
                use_tokenizer(&tokenizer);
            }
        }
    }
    SCRATCH.with(|scratch| open(scratch.get_or_init(|| Scratch::new("gguf")), &files));
});

fn open(scratch: &Scratch, files: &[&[u8]]) {
    let count = files.len();
    let paths: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(i, file)| scratch.write(&format!("m-{:05}-of-{count:05}.gguf", i + 1), file))
        .collect();
    let Ok(model) = BaseModel::open(&paths[0]) else {
        return;
    };
    use_tokenizer(&model.tokenizer);
    let message = TemplateMessage {
        role: "user",
        content: TEXT,
    };
    let _ = model.encode_chat(&[message], true);
    let _ = model.encode_completion(&[message], "yes");
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    for special in [true, false] {
        if let Ok(ids) = tokenizer.encode(TEXT, special) {
            let _ = tokenizer.decode(&ids, special);
        }
    }
    for id in [0, 1, u32::MAX, tokenizer.eos()] {
        let _ = (tokenizer.token_text(id), tokenizer.token_bytes(id));
    }
}
