//! Images: what models say to them beside what transformers says, and what is
//! refused. Where nothing is resampled both see the same pixels, and differ by the
//! order of sums; a picture of another size is resampled by two libraries.

use std::path::PathBuf;

use bytes::Bytes;
use engine::{
    AdapterPackage, ChatEvent, ChatMessage, ChatRequest, Engine, EngineError, FinishReason, Image,
    ImageFormat, Role, SamplingParams,
};
use engine_mistralrs::{MistralEngine, MistralOptions};
use model::BaseModel;
use serde::Deserialize;

use crate::support::{Answer, ask, golden, open, package};

/// The models, with how far their log-probabilities may be from transformers'
/// where the pixels are the same, and where a picture was resampled.
const MODELS: [(&str, f32, f32); 5] = [
    ("idefics3", 1e-4, 0.05),
    ("gemma3", 1e-4, 0.01),
    // the crate approximates an activation: see APPROXIMATED
    ("qwen3_vl", 0.002, 0.05),
    ("qwen3_vl_moe", 0.002, 0.05),
    ("mistral3", 1e-4, 0.05),
];
/// What is also held against transformers with the crate's approximation in it, where
/// no picture is resampled.
const APPROXIMATED: [&str; 2] = ["qwen3_vl", "qwen3_vl_moe"];

/// What transformers says.
#[derive(Deserialize)]
struct Expected {
    /// Texts, and pictures' names in angle brackets.
    parts: Vec<String>,
    prompt_tokens: u32,
    tokens: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    bytes: Vec<u8>,
    logprob: f32,
    /// How much more likely it is than the second.
    ahead: f32,
}

fn folder(name: &str) -> PathBuf {
    golden("vision").join(name)
}

fn answers(name: &str) -> serde_json::Map<String, serde_json::Value> {
    answers_in(name, "answers.json")
}

fn answers_in(name: &str, file: &str) -> serde_json::Map<String, serde_json::Value> {
    let text = std::fs::read(folder(name).join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn expected(name: &str, what: &str) -> Expected {
    serde_json::from_value(answers(name)[what].clone()).unwrap()
}

fn picture(name: &str) -> Bytes {
    let path = golden("vision").join(format!("{name}.png"));
    std::fs::read(path).unwrap().into()
}

/// A user's message of these parts.
fn message<P: AsRef<str>>(parts: &[P]) -> ChatMessage {
    let mut message = ChatMessage::new(Role::User, "");
    for part in parts {
        let part = part.as_ref();
        match part
            .strip_prefix('<')
            .and_then(|name| name.strip_suffix('>'))
        {
            Some(name) => message.images.push(Image {
                at: message.content.len(),
                format: ImageFormat::Png,
                data: picture(name),
            }),
            None => message.content.push_str(part),
        }
    }
    message
}

fn request<P: AsRef<str>>(parts: &[P], max_tokens: u32) -> ChatRequest {
    ChatRequest {
        top_logprobs: Some(2),
        ignore_eos: true,
        ..ChatRequest::greedy(vec![message(parts)], max_tokens)
    }
}

async fn model(name: &str) -> MistralEngine {
    let engine = open(folder(name), MistralOptions::default()).await;
    assert!(engine.base().takes_images, "{name}");
    engine
}

/// Holds an answer against transformers': tokens as long as they are not as good as
/// equal, log-probabilities up to `error`. How far they are apart.
fn compare(what: &str, found: &Answer, expected: &Expected, error: f32) -> f32 {
    assert_eq!(found.usage.prompt_tokens, expected.prompt_tokens, "{what}");
    assert_eq!(found.tokens.len(), expected.tokens.len(), "{what}");
    let mut worst = 0.0f32;
    for (at, (ours, theirs)) in found.tokens.iter().zip(&expected.tokens).enumerate() {
        if ours.bytes != theirs.bytes {
            assert!(
                theirs.ahead < 2.0 * error,
                "{what}: token {at} is {ours:?}, not {:?}",
                theirs.bytes
            );
            // from here on the answers are others
            assert!(at > 0, "{what}: nothing was compared");
            return worst;
        }
        let apart = (ours.logprob - theirs.logprob).abs();
        assert!(apart < error, "{what}: token {at} is off by {apart}");
        worst = worst.max(apart);
    }
    worst
}

/// How much two answers differ: without bound where they have other tokens.
fn difference(a: &Answer, b: &Answer) -> f32 {
    let tokens = a.tokens.iter().zip(&b.tokens);
    let differences = tokens.map(|(a, b)| match a.bytes == b.bytes {
        true => (a.logprob - b.logprob).abs(),
        false => f32::INFINITY,
    });
    differences.fold(0.0, f32::max)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_are_seen_as_transformers_sees_them() {
    for (name, error, resampled) in MODELS {
        let engine = model(name).await;
        let mut found = std::collections::BTreeMap::new();
        for (what, expected) in answers(name) {
            let expected: Expected = serde_json::from_value(expected).unwrap();
            let tokens = u32::try_from(expected.tokens.len()).unwrap();
            let answer = ask(&engine, request(&expected.parts, tokens)).await;
            let error = if what == "resampled" {
                resampled
            } else {
                error
            };
            let apart = compare(&format!("{name}, {what}"), &answer, &expected, error);
            println!("{name}, {what}: apart by {apart}");
            found.insert(what, answer);
        }
        if APPROXIMATED.contains(&name) {
            for (what, expected) in answers_in(name, "approximated.json") {
                if what == "resampled" {
                    continue;
                }
                let expected: Expected = serde_json::from_value(expected).unwrap();
                let tokens = u32::try_from(expected.tokens.len()).unwrap();
                let answer = ask(&engine, request(&expected.parts, tokens)).await;
                let apart = compare(&format!("{name}, {what}"), &answer, &expected, 1e-4);
                println!("{name}, {what}: apart by {apart} of the approximated");
            }
        }
        // another picture, and the same in another order, is another answer
        for (a, b) in [("one", "another"), ("between", "turned"), ("one", "none")] {
            let apart = difference(&found[a], &found[b]);
            assert!(
                apart > 0.1,
                "{name}: {a} and {b} are apart by {apart} alone"
            );
        }
        // and the same picture the same, whatever came between
        let again = ask(&engine, request(&expected(name, "one").parts, 10)).await;
        assert_eq!(again.tokens, found["one"].tokens, "{name}");
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choices_seeds_and_stops_mean_the_same_beside_images() {
    let engine = model("idefics3").await;
    let parts = ["<slope>", "what is it?"];
    let sampled = |seed: u64, n: u32| ChatRequest {
        n,
        sampling: SamplingParams {
            seed,
            ..SamplingParams::default()
        },
        ..request(&parts, 8)
    };
    // the choices of one request, each by its number
    let mut texts = [const { String::new() }; 3];
    let mut stream = engine.chat(sampled(7, 3)).await.unwrap();
    let mut finished = 0;
    let usage = loop {
        match stream.events.recv().await.unwrap().unwrap() {
            ChatEvent::Delta { choice, text, .. } => texts[choice as usize].push_str(&text),
            ChatEvent::Finished { .. } => finished += 1,
            ChatEvent::Done { usage } => break usage,
        }
    };
    assert_eq!((finished, usage.completion_tokens), (3, 24));
    assert_eq!(usage.prompt_tokens, stream.prompt_tokens);
    assert_ne!(texts[0], texts[1]);
    let first = ask(&engine, sampled(7, 1)).await;
    assert_eq!(first.text, texts[0], "the same seed");
    assert_ne!(ask(&engine, sampled(8, 1)).await.text, first.text);

    let whole = ask(&engine, request(&parts, 10)).await.text;
    let stop: String = whole.chars().skip(2).take(2).collect();
    let stopped = ChatRequest {
        stop: vec![stop.clone()],
        ignore_eos: false,
        ..request(&parts, 10)
    };
    let stopped = ask(&engine, stopped).await;
    assert_eq!(stopped.reason, FinishReason::Stop);
    assert_eq!(Some(stopped.text.as_str()), whole.split(&stop).next());
    engine.shutdown().await;
}

/// Waits for the engine to be idle.
async fn idle(engine: &MistralEngine) {
    for _ in 0..500 {
        let capacity = engine.capacity();
        if capacity.running + capacity.waiting == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the engine is busy: {:?}", engine.capacity());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_frees_the_place() {
    let engine = model("idefics3").await;
    let parts = ["<slope>", "what is it?"];
    let mut stream = engine.chat(request(&parts, 200)).await.unwrap();
    stream.events.recv().await.unwrap().unwrap();
    drop(stream);
    idle(&engine).await;
    // one that waits behind another goes as well
    let first = engine.chat(request(&parts, 200)).await.unwrap();
    let second = engine.chat(request(&parts, 200)).await.unwrap();
    drop((second, first));
    idle(&engine).await;
    assert_eq!(ask(&engine, request(&parts, 4)).await.tokens.len(), 4);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_shown_is_refused_before_it_is_queued() {
    let engine = model("idefics3").await;
    let refused = async |messages: Vec<ChatMessage>| {
        let request = ChatRequest::greedy(messages, 4);
        match engine.chat(request).await {
            Err(EngineError::InvalidRequest {
                param: "messages",
                reason,
            }) => reason,
            other => panic!("{other:?}"),
        }
    };
    // what looks like a control token, in any message
    for text in [
        "a <end_of_utterance> b",
        "a <image>",
        "a <fake_token_around_image>",
        "a<|im_start|>b",
    ] {
        let reason = refused(vec![message(&["<slope>", text, "?"])]).await;
        assert!(reason.contains("controls the model"), "{reason}");
        let system = ChatMessage::new(Role::System, text);
        let reason = refused(vec![system, message(&["<slope>"])]).await;
        assert!(reason.contains("controls the model"), "{reason}");
    }
    // alone it is text, as ever
    let text = ChatMessage::new(Role::User, "a <end_of_utterance> <image> b");
    ask(&engine, ChatRequest::greedy(vec![text], 2)).await;
    // a header that promises a picture
    let mut broken = message(&["<slope>", "?"]);
    broken.images[0].data.truncate(40);
    let reason = refused(vec![broken]).await;
    assert!(reason.contains("cannot be decoded"), "{reason}");
    // one that promises a very large one
    let mut bomb = message(&["<slope>", "?"]);
    let mut bytes = bomb.images[0].data.to_vec();
    bytes[16..24].copy_from_slice(&[0, 0, 0x20, 0, 0, 0, 0x20, 0]);
    bomb.images[0].data = bytes.into();
    let reason = refused(vec![bomb]).await;
    assert!(reason.contains("cannot be decoded"), "{reason}");
    // more than the context: images are counted
    let long = vec![message(&["<slope>", "what is it?"]); 8];
    let alone = engine.count_prompt_tokens(&long[..1], None).await.unwrap();
    assert_eq!(alone, expected("idefics3", "one").prompt_tokens);
    let limited = MistralOptions {
        context_length_max: Some(2 * alone),
        ..MistralOptions::default()
    };
    let small = open(folder("idefics3"), limited).await;
    let found = small.chat(ChatRequest::greedy(long, 4)).await.err();
    assert!(
        matches!(found, Some(EngineError::ContextOverflow { .. })),
        "{found:?}"
    );
    // nothing of it is left, and the model's thread is well
    for engine in [&engine, &small] {
        idle(engine).await;
        ask(engine, request(&["<slope>"], 2)).await;
    }
}

/// The crate looks for an image behind a token that begins one, and fails where a
/// model says it by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_begins_an_image_of_its_own() {
    let engine = model("qwen3_vl").await;
    let config = std::fs::read(folder("qwen3_vl").join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let begin = u32::try_from(config["vision_start_token_id"].as_u64().unwrap()).unwrap();
    let urged = |parts: &[&str]| {
        let mut request = request(parts, 6);
        request.sampling.logit_bias.insert(begin, 100.0);
        request
    };
    let beside = ask(&engine, urged(&["<slope>", "what is it?"])).await;
    let plain = ask(&engine, request(&["<slope>", "what is it?"], 6)).await;
    assert_eq!(beside.tokens, plain.tokens);
    // without an image it is a token like others
    let alone = ask(&engine, urged(&["what is it?"])).await;
    assert!(alone.tokens.iter().all(|t| t.bytes == b"<|vision_start|>"));
    engine.shutdown().await;
}

/// Sizes are known from headers, and refused before anything is queued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_costs_what_its_size_does() {
    let engine = model("qwen3_vl").await;
    let count = async |parts: &[&str]| {
        let messages = [message(parts)];
        engine.count_prompt_tokens(&messages, None).await.unwrap()
    };
    let one = count(&["<slope>", "?"]).await;
    // three seats instead of four, and six of a picture that is made smaller
    assert_eq!(count(&["<band>", "?"]).await, one - 1);
    assert_eq!(count(&["<rings>", "?"]).await, one + 2);
    let mut long = message(&["<slope>", "?"]);
    let picture = image::DynamicImage::new_rgb8(1, 201);
    let mut file = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut file, image::ImageFormat::Png)
        .unwrap();
    long.images[0].data = file.into_inner().into();
    let counted = engine.count_prompt_tokens(&[long.clone()], None).await;
    let asked = engine.chat(ChatRequest::greedy(vec![long], 4)).await;
    for found in [counted.map(|_| ()), asked.map(|_| ())] {
        match found {
            Err(EngineError::InvalidRequest { reason, .. }) => {
                assert!(reason.contains("too long"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    idle(&engine).await;
}

/// Pictures of the least and of odd sizes, and of other encodings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_of_any_size_are_taken() {
    use image::{DynamicImage, RgbaImage};
    for (name, _, _) in MODELS {
        let engine = model(name).await;
        let mut seen = Vec::new();
        for (width, height) in [(1, 1), (1, 200), (300, 2), (33, 31)] {
            let gradient = RgbaImage::from_fn(width, height, |x, y| {
                image::Rgba([(x % 256) as u8, (y % 256) as u8, 90, 128])
            });
            for format in [
                ImageFormat::Png,
                ImageFormat::Jpeg,
                ImageFormat::Gif,
                ImageFormat::Webp,
            ] {
                let (written, pixels) = match format {
                    ImageFormat::Png => (image::ImageFormat::Png, gradient.clone().into()),
                    ImageFormat::Jpeg => {
                        let rgb = DynamicImage::from(gradient.clone()).into_rgb8();
                        (image::ImageFormat::Jpeg, rgb.into())
                    }
                    ImageFormat::Gif => (image::ImageFormat::Gif, gradient.clone().into()),
                    ImageFormat::Webp => (image::ImageFormat::WebP, gradient.clone().into()),
                };
                let pixels: DynamicImage = pixels;
                let mut file = std::io::Cursor::new(Vec::new());
                pixels.write_to(&mut file, written).unwrap();
                let mut message = message(&["<slope>", "what is it?"]);
                message.images[0].format = format;
                message.images[0].data = file.into_inner().into();
                let request = ChatRequest {
                    top_logprobs: Some(0),
                    ignore_eos: true,
                    ..ChatRequest::greedy(vec![message], 2)
                };
                seen.push(ask(&engine, request).await.tokens[0].logprob);
            }
        }
        assert!(seen.iter().all(|logprob| logprob.is_finite()), "{seen:?}");
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_that_take_no_images_say_so() {
    let images = [message(&["<slope>", "?"])];
    let text = golden("folders").join("llama3");
    let with_prefixes = MistralOptions {
        prefix_cache: true,
        ..MistralOptions::default()
    };
    // one whose tokens cannot be told by their names, as the crate is told them
    let unspelled = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder("qwen3_vl")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), unspelled.path().join(file.file_name())).unwrap();
    }
    let tokenizer = unspelled.path().join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&tokenizer).unwrap()).unwrap();
    json["decoder"] = serde_json::json!({"type": "Sequence", "decoders": [json["decoder"]]});
    std::fs::write(&tokenizer, json.to_string()).unwrap();
    let engines = [
        open(text, MistralOptions::default()).await,
        open(folder("idefics3"), with_prefixes).await,
        open(unspelled.path().to_owned(), MistralOptions::default()).await,
    ];
    for engine in &engines {
        assert!(!engine.base().takes_images);
        let expected = EngineError::NoImages(engine.base().name.clone());
        let counted = engine.count_prompt_tokens(&images, None).await;
        assert_eq!(counted, Err(expected.clone()));
        let asked = engine.chat(ChatRequest::greedy(images.to_vec(), 4)).await;
        assert_eq!(asked.err(), Some(expected));
        let text = ChatMessage::new(Role::User, "what is it?");
        ask(engine, ChatRequest::greedy(vec![text], 2)).await;
    }
}

/// Weights of an adapter have no place in what the native reader does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_for_a_model_with_images_is_refused_by_name() {
    let config = BaseModel::open(&golden("folders").join("llama3"))
        .unwrap()
        .config;
    let adapter: AdapterPackage = package(&config, 1, 0.02);
    for (name, _, _) in MODELS {
        let engine = model(name).await;
        let found = engine.load_adapter(adapter.clone()).await;
        match found {
            Err(EngineError::AdapterRejected(reason)) => {
                assert!(reason.contains("no adapter can be merged"), "{reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(engine.adapters().is_empty());
    }
}
