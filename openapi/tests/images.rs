//! Images in messages: what is taken, and what is refused under which name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openapi::{ChatCompletionRequest, RequestError, RequestImageFormat, code, limits};
use serde_json::{Value, json};

/// What the header of a PNG of this size says; the rest of it is missing.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes
}

fn jpeg() -> Vec<u8> {
    b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\0\x02\0\x03".to_vec()
}

fn gif() -> Vec<u8> {
    b"GIF89a\x02\0\x03\0\0\0\0".to_vec()
}

fn webp() -> Vec<u8> {
    b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x01\0\0\x02\0\0".to_vec()
}

fn url(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", STANDARD.encode(bytes))
}

fn part(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

fn good() -> Value {
    part(&url("image/png", &png(2, 3)))
}

fn parse(messages: &Value) -> Result<ChatCompletionRequest, RequestError> {
    let body = json!({"model": "m", "messages": messages});
    ChatCompletionRequest::parse(body.to_string().as_bytes())
}

fn said(role: &str, content: &Value) -> Value {
    json!([{"role": role, "content": content}])
}

#[test]
fn images_stand_where_the_parts_have_them() {
    let shown = |image: Value, detail: Value| {
        let mut image = image;
        image["image_url"]["detail"] = detail;
        image
    };
    let content = json!([
        shown(part(&url("image/png", &png(2, 3))), json!("auto")),
        {"type": "text", "text": "é"},
        shown(part(&url("image/jpeg", &jpeg())), json!("low")),
        shown(part(&url("IMAGE/JPG", &jpeg())), json!(null)),
        {"type": "text", "text": "b"},
        shown(part(&url("image/gif", &gif())), json!("high")),
        part(&url("image/webp", &webp()).replace("data:", "DATA:")),
    ]);
    let request = parse(&said("user", &content)).unwrap();
    let message = &request.messages[0];
    assert_eq!(message.content, "éb");
    let images = message.images.iter();
    let found: Vec<_> = images.map(|image| (image.at, image.format)).collect();
    use RequestImageFormat as F;
    let expected = [
        (0, F::Png),
        (2, F::Jpeg),
        (2, F::Jpeg),
        (3, F::Gif),
        (3, F::Webp),
    ];
    assert_eq!(found, expected);
    assert_eq!(message.images[0].data, png(2, 3));
    let shown = format!("{message:?}");
    assert!(
        shown.contains("bytes: 24") && !shown.contains("PNG"),
        "{shown}"
    );
    // an image alone is a message
    assert!(parse(&said("user", &json!([good()]))).is_ok());
}

#[test]
fn every_refused_image_names_its_place() {
    use code::{MISSING, TYPE, UNKNOWN, UNSUPPORTED, VALUE};
    const URL: &str = "messages[0].content[1].image_url.url";
    let of = |media_type: &str, bytes: &[u8]| part(&url(media_type, bytes));
    let huge = |width, height| of("image/png", &png(width, height));
    let side = u32::try_from(limits::IMAGE_SIDE_MAX).unwrap();
    let plain = |url: &str| part(url);
    let cases = [
        (
            plain("https://example.org/a.png"),
            URL,
            UNSUPPORTED,
            "not fetched; send a data: URL",
        ),
        (
            plain("HTTP://127.0.0.1/a.png"),
            URL,
            UNSUPPORTED,
            "not fetched; send a data: URL",
        ),
        (plain("file:///etc/passwd"), URL, VALUE, "data:TYPE;base64,"),
        (plain("data:image/png,abc"), URL, VALUE, "data:TYPE;base64,"),
        (plain(""), URL, VALUE, "data:TYPE;base64,"),
        (plain("é"), URL, VALUE, "data:TYPE;base64,"),
        (plain("data:image/png;base64,%%%"), URL, VALUE, "base64"),
        (
            plain("data:image/png;base64,iVBO Rw0K"),
            URL,
            VALUE,
            "base64",
        ),
        (
            of("image/svg+xml", b"<svg/>"),
            URL,
            VALUE,
            "the type must be",
        ),
        (of("text/html", b"<p>"), URL, VALUE, "the type must be"),
        (
            of("image/png", &jpeg()),
            URL,
            VALUE,
            "of the type that it says",
        ),
        (
            of("image/png", b"nothing"),
            URL,
            VALUE,
            "of the type that it says",
        ),
        (of("image/png", b""), URL, VALUE, "of the type that it says"),
        (
            of("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIH"),
            URL,
            VALUE,
            "size cannot be read",
        ),
        (
            of("image/jpeg", b"\xff\xd8\xff\xe0\xff\xff\0\0\0\0\0\0"),
            URL,
            VALUE,
            "size cannot be read",
        ),
        (huge(0, 5), URL, VALUE, "no pixels"),
        (huge(side + 1, 1), URL, VALUE, "8193 by 1 pixels"),
        (huge(side, side), URL, VALUE, "16777216 in all"),
        (huge(u32::MAX, u32::MAX), URL, VALUE, "pixels"),
        (
            json!({"type": "image_url"}),
            "messages[0].content[1].image_url",
            MISSING,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": "x"}),
            "messages[0].content[1].image_url",
            TYPE,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": {}}),
            URL,
            MISSING,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": 5}}),
            URL,
            TYPE,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": url("image/png", &png(1, 1)), "detail": "ultra"}}),
            "messages[0].content[1].image_url.detail",
            UNSUPPORTED,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": url("image/png", &png(1, 1)), "size": 1}}),
            "messages[0].content[1].image_url.size",
            UNKNOWN,
            "",
        ),
        (
            json!({"type": "image_url", "image_url": {"url": url("image/png", &png(1, 1))}, "text": "a"}),
            "messages[0].content[1].text",
            UNKNOWN,
            "",
        ),
        (
            json!({"type": "input_audio"}),
            "messages[0].content[1].type",
            UNSUPPORTED,
            "text and image_url",
        ),
    ];
    for (image, param, code, reason) in cases {
        let short: String = image.to_string().chars().take(100).collect();
        let content = json!([{"type": "text", "text": "what?"}, image]);
        let error = parse(&said("user", &content)).expect_err(&short);
        assert_eq!(error.param.as_deref(), Some(param), "{short}: {error}");
        assert_eq!(error.code, code, "{short}: {error}");
        assert!(error.message.contains(reason), "{short}: {error}");
        assert!(error.message.len() < 300, "{short}: {error}");
    }
}

#[test]
fn only_the_user_shows_images() {
    for role in ["system", "developer", "assistant"] {
        let error = parse(&said(role, &json!([good()]))).unwrap_err();
        assert_eq!(
            error.param.as_deref(),
            Some("messages[0].content[0].type"),
            "{role}"
        );
        assert_eq!(error.code, code::UNSUPPORTED);
        assert!(
            error.message.contains("only the user's messages"),
            "{error}"
        );
    }
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let error = parse(&json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [good()]},
    ]));
    let error = error.unwrap_err();
    assert_eq!(
        error.param.as_deref(),
        Some("messages[2].content[0].type"),
        "{error}"
    );
}

#[test]
fn images_have_limits_that_hold_exactly() {
    let many = |count: usize| json!(vec![good(); count]);
    assert!(parse(&said("user", &many(limits::IMAGES_MAX))).is_ok());
    let error = parse(&said("user", &many(limits::IMAGES_MAX + 1))).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[0].content"));
    assert!(error.message.contains("at most 8 images"), "{error}");
    // counted over all messages
    let user = |count: usize| json!({"role": "user", "content": many(count)});
    assert!(parse(&json!([user(4), user(4)])).is_ok());
    let error = parse(&json!([user(4), user(5)])).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[1].content"));

    let sized = |bytes: usize| {
        let mut file = png(2, 2);
        file.resize(bytes, 0);
        parse(&said("user", &json!([part(&url("image/png", &file))])))
    };
    assert!(sized(limits::IMAGE_BYTES_MAX).is_ok());
    for more in [1, 3, 1000] {
        let error = sized(limits::IMAGE_BYTES_MAX + more).unwrap_err();
        assert!(error.message.contains("at most 8388608 bytes"), "{error}");
    }
    let largest = u32::try_from(limits::IMAGE_PIXELS_MAX / limits::IMAGE_SIDE_MAX).unwrap();
    let side = u32::try_from(limits::IMAGE_SIDE_MAX).unwrap();
    let measured = |width, height| {
        parse(&said(
            "user",
            &json!([part(&url("image/png", &png(width, height)))]),
        ))
    };
    assert!(measured(side, largest).is_ok());
    assert!(measured(side, largest + 1).is_err());
}
