//! A chat template and a message: it compiles and renders within its limits of
//! steps, bytes and time, or is refused.
#![no_main]

use std::sync::Arc;

use flywheel_fuzz::{parts, text};
use ids::{ManualClock, UnixMillis};
use libfuzzer_sys::fuzz_target;
use model::{ChatTemplate, PROMPT_BYTES_MAX, TemplateMessage};

fuzz_target!(|input: &[u8]| {
    let files = parts(input, 2);
    let [message, source] = files[..] else {
        return;
    };
    let Ok(source) = std::str::from_utf8(source) else {
        return;
    };
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let Ok(template) = ChatTemplate::with_clock(source, "<s>", "</s>", clock) else {
        return;
    };
    let content = text(message);
    let said = |role| TemplateMessage {
        role,
        content: &content,
    };
    for add_generation_prompt in [true, false] {
        let conversation = [said("system"), said("user"), said("assistant")];
        if let Ok(prompt) = template.render(&conversation, add_generation_prompt) {
            assert!(prompt.len() <= PROMPT_BYTES_MAX);
        }
    }
});
