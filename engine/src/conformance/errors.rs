//! What is refused, by which error, and that nothing changes by it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ids::{AdapterDigest, Sha256Digest};

use super::support::request;
use super::{Violation, expect};
use crate::api::{ChatMessage, ChatRequest, Engine, EngineError, Role, SamplingParams};
use crate::image::{IMAGE_BYTES_MAX, IMAGES_MAX, Image, ImageFormat};

pub(super) async fn run(engine: &dyn Engine) -> Result<(), Violation> {
    for (param, request) in invalid() {
        let found = engine.chat(request).await.err();
        let named =
            matches!(&found, Some(EngineError::InvalidRequest { param: p, .. }) if *p == param);
        expect(named, param, found)?;
    }
    images(engine).await?;
    context(engine).await?;
    let digest = AdapterDigest(Sha256Digest::of(b"no adapter"));
    let unknown = ChatRequest {
        adapter: Some(digest),
        ..request("Hello", 4)
    };
    let found = engine.chat(unknown).await.err();
    expect(
        found == Some(EngineError::AdapterNotLoaded(digest)),
        "an unknown adapter",
        found,
    )?;
    let found = engine.unload_adapter(&digest).await.err();
    expect(
        found == Some(EngineError::AdapterNotLoaded(digest)),
        "unloading an unknown one",
        found,
    )
}

/// Requests with one thing wrong, by the parameter that must be named.
fn invalid() -> Vec<(&'static str, ChatRequest)> {
    let good = request("Hello", 4);
    let sampled = |sampling: SamplingParams| ChatRequest {
        sampling,
        ..request("Hello", 4)
    };
    let default = SamplingParams::default;
    vec![
        (
            "messages",
            ChatRequest {
                messages: Vec::new(),
                ..good.clone()
            },
        ),
        (
            "n",
            ChatRequest {
                n: 0,
                ..good.clone()
            },
        ),
        (
            "n",
            ChatRequest {
                n: 9,
                ..good.clone()
            },
        ),
        (
            "max_tokens",
            ChatRequest {
                max_tokens: Some(0),
                ..good.clone()
            },
        ),
        (
            "stop",
            ChatRequest {
                stop: vec!["a".to_owned(); 5],
                ..good.clone()
            },
        ),
        (
            "stop",
            ChatRequest {
                stop: vec![String::new()],
                ..good.clone()
            },
        ),
        (
            "top_logprobs",
            ChatRequest {
                top_logprobs: Some(21),
                ..good
            },
        ),
        (
            "temperature",
            sampled(SamplingParams {
                temperature: 2.1,
                ..default()
            }),
        ),
        (
            "temperature",
            sampled(SamplingParams {
                temperature: f32::NAN,
                ..default()
            }),
        ),
        (
            "top_p",
            sampled(SamplingParams {
                top_p: 0.0,
                ..default()
            }),
        ),
        (
            "min_p",
            sampled(SamplingParams {
                min_p: -0.1,
                ..default()
            }),
        ),
        (
            "frequency_penalty",
            sampled(SamplingParams {
                frequency_penalty: 3.0,
                ..default()
            }),
        ),
        (
            "presence_penalty",
            sampled(SamplingParams {
                presence_penalty: -3.0,
                ..default()
            }),
        ),
        (
            "repetition_penalty",
            sampled(SamplingParams {
                repetition_penalty: 1e-38,
                ..default()
            }),
        ),
        (
            "logit_bias",
            sampled(SamplingParams {
                logit_bias: BTreeMap::from([(1, 101.0)]),
                ..default()
            }),
        ),
    ]
}

/// A user's message with an image at each of these bytes of its text.
fn with_images(places: &[usize], data: Bytes) -> Vec<ChatMessage> {
    let mut message = ChatMessage::new(Role::User, "Höre");
    let format = ImageFormat::Png;
    message.images = places
        .iter()
        .map(|&at| Image {
            at,
            format,
            data: data.clone(),
        })
        .collect();
    vec![message]
}

async fn images(engine: &dyn Engine) -> Result<(), Violation> {
    let small = || Bytes::from_static(b"no image");
    let large = Bytes::from(vec![0; IMAGE_BYTES_MAX + 1]);
    let mut elsewhere = with_images(&[0], small());
    elsewhere[0].role = Role::Assistant;
    let wrong = [
        (
            "too many images",
            with_images(&[0; IMAGES_MAX + 1], small()),
        ),
        ("a large image", with_images(&[0], large)),
        ("an image within a character", with_images(&[2], small())),
        ("an image behind the text", with_images(&[6], small())),
        ("images in disorder", with_images(&[3, 1], small())),
        ("an image of the assistant", elsewhere),
        ("what is no image", with_images(&[0], small())),
    ];
    for (what, messages) in wrong {
        let request = ChatRequest {
            messages,
            ..request("", 4)
        };
        let found = engine.chat(request).await.err();
        let refused = match &found {
            Some(EngineError::InvalidRequest { param, .. }) => *param == "messages",
            Some(EngineError::NoImages(name)) => *name == engine.base().name,
            _ => false,
        };
        expect(refused, what, found)?;
    }
    if engine.base().takes_images {
        return Ok(());
    }
    let expected = EngineError::NoImages(engine.base().name.clone());
    let messages = with_images(&[0], small());
    let counted = engine.count_prompt_tokens(&messages, None).await;
    expect(counted == Err(expected.clone()), "counting images", counted)?;
    let request = ChatRequest {
        messages,
        ..request("", 4)
    };
    let asked = engine.chat(request).await.err();
    expect(asked == Some(expected), "an image for a text model", asked)?;
    let waiting = engine.capacity().waiting;
    expect(waiting == 0, "nothing is queued", waiting)
}

async fn context(engine: &dyn Engine) -> Result<(), Violation> {
    let context_length = engine.base().context_length;
    let found = engine.chat(request("Hello", context_length)).await.err();
    let refused = matches!(
        found,
        Some(EngineError::ContextOverflow { max_tokens, context_length: c, .. })
            if max_tokens == context_length && c == context_length
    );
    expect(refused, "more tokens than the context", found)?;
    let long = "word ".repeat(context_length as usize + 1);
    let found = engine
        .chat(ChatRequest {
            max_tokens: None,
            ..request(&long, 1)
        })
        .await
        .err();
    let refused = matches!(found, Some(EngineError::ContextOverflow { .. }));
    expect(refused, "a prompt longer than the context", found)
}
