//! The shipped sets measure something: the demo's model has most of them right.

use std::path::Path;
use std::sync::Arc;

use engine::native::{NativeEngine, NativeOptions};

use super::real;
use crate::evaluate::{Generator, contains, read_tasks};

/// Answers of the demo's model are this long at most.
const ANSWER_TOKENS_MAX: u32 = 48;

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_model_answers_the_shipped_sets() {
    let options = NativeOptions {
        threads: 2,
        ..NativeOptions::default()
    };
    let engine = Arc::new(NativeEngine::start(real(), options).unwrap());
    let generator = Generator::new(
        Arc::clone(&engine) as Arc<dyn engine::Engine>,
        ANSWER_TOKENS_MAX,
        None,
    );
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/evaluation"));
    for name in ["regression.jsonl", "sycophancy.jsonl"] {
        let tasks = read_tasks(&folder.join(name)).unwrap().tasks;
        let prompts: Vec<_> = tasks.iter().map(|task| task.messages.clone()).collect();
        let answers = generator.answers(None, &prompts).await.unwrap();
        let wrong: Vec<&str> = tasks
            .iter()
            .zip(&answers)
            .filter(|(task, answer)| !task.expect.iter().any(|e| contains(&answer.text, e)))
            .map(|(task, _)| task.messages[0].content.as_str())
            .collect();
        // near-ties of the least bit may fall otherwise on another machine
        assert!(wrong.len() * 20 <= tasks.len(), "{name}: {wrong:?}");
    }
    engine.shutdown().await;
}
