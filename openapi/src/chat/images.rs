//! Images in the parts of a message: taken out of their data: URLs and measured by
//! their headers. Nothing is decoded, and nothing is fetched: what a URL leads to is
//! the client's to send.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use imagesize::ImageType;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::limits;
use crate::RequestError;
use crate::error::code;
use crate::fields::{Fields, wrong_type, wrong_value};

type Read<T> = Result<T, RequestError>;

/// How an image is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestImageFormat {
    /// `image/png`.
    Png,
    /// `image/jpeg`.
    Jpeg,
    /// `image/webp`.
    Webp,
    /// `image/gif`.
    Gif,
}

/// An image of a message.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestImage {
    /// Where in the message's joined text it stands, in bytes.
    pub at: usize,
    /// How it is encoded: as its URL says and its first bytes show.
    pub format: RequestImageFormat,
    /// As it was sent.
    pub data: Bytes,
}

impl std::fmt::Debug for RequestImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestImage")
            .field("at", &self.at)
            .field("format", &self.format)
            .field("bytes", &self.data.len())
            .finish()
    }
}

/// Where an image is.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// A `data:` URL with a PNG, JPEG, WebP or GIF in base64, of at most 8 MiB and
    /// 16 megapixels. No other URL is taken: images are not fetched.
    #[schema(example = "data:image/png;base64,iVBORw0KGgo=")]
    pub url: String,
    /// Changes nothing: each model looks at images in a size of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<ImageDetail>,
}

/// How closely an image is to be looked at.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageDetail {
    /// As the model likes.
    Auto,
    /// Roughly.
    Low,
    /// Closely.
    High,
}

/// Reads the `image_url` of a part. The image stands at byte `at` of the text.
pub(super) fn image(part: &mut Fields, at: usize) -> Read<RequestImage> {
    let param = part.param("image_url");
    let mut fields = Fields::of_value(&param, part.required("image_url")?)?;
    let url_param = fields.param("url");
    let url = match fields.required("url")? {
        Value::String(url) => url,
        other => return Err(wrong_type(&url_param, "a string", &other)),
    };
    let is_detail = |value: &Value| matches!(value.as_str(), Some("auto" | "low" | "high"));
    fields.inert("detail", is_detail)?;
    fields.finish()?;
    let (format, data) = decode(&url_param, &url)?;
    Ok(RequestImage { at, format, data })
}

/// The bytes of a data: URL, whose header says what they are.
fn decode(param: &str, url: &str) -> Read<(RequestImageFormat, Bytes)> {
    let wrong = |reason: &str| wrong_value(param, reason);
    let scheme = url.split(':').next().unwrap_or_default();
    if ["http", "https"]
        .iter()
        .any(|it| scheme.eq_ignore_ascii_case(it))
    {
        let message = format!("{param}: images are not fetched; send a data: URL");
        return Err(RequestError::new(code::UNSUPPORTED, param, message));
    }
    let rest = url.get(scheme.len() + 1..);
    let rest = rest.filter(|_| scheme.eq_ignore_ascii_case("data"));
    let Some((media_type, text)) = rest.and_then(|rest| rest.split_once(";base64,")) else {
        return Err(wrong("must be data:TYPE;base64, and an image in base64"));
    };
    let format = match media_type.to_ascii_lowercase().as_str() {
        "image/png" => RequestImageFormat::Png,
        "image/jpeg" | "image/jpg" => RequestImageFormat::Jpeg,
        "image/webp" => RequestImageFormat::Webp,
        "image/gif" => RequestImageFormat::Gif,
        _ => {
            return Err(wrong(
                "the type must be image/png, image/jpeg, image/webp or image/gif",
            ));
        }
    };
    let too_large = || {
        wrong(&format!(
            "an image has at most {} bytes",
            limits::IMAGE_BYTES_MAX
        ))
    };
    // before anything is decoded
    if text.len() > limits::IMAGE_BYTES_MAX.div_ceil(3) * 4 {
        return Err(too_large());
    }
    let data = STANDARD.decode(text);
    let data = data.map_err(|_| wrong("is not valid base64"))?;
    if data.len() > limits::IMAGE_BYTES_MAX {
        return Err(too_large());
    }
    measure(param, format, &data)?;
    Ok((format, data.into()))
}

/// Holds the header of an image against what is said of it and against the limits:
/// a small file can say that it is a very large picture.
fn measure(param: &str, format: RequestImageFormat, data: &[u8]) -> Read<()> {
    let wrong = |reason: &str| wrong_value(param, reason);
    let found = match imagesize::image_type(data) {
        Ok(ImageType::Png) => Some(RequestImageFormat::Png),
        Ok(ImageType::Jpeg) => Some(RequestImageFormat::Jpeg),
        Ok(ImageType::Webp) => Some(RequestImageFormat::Webp),
        Ok(ImageType::Gif) => Some(RequestImageFormat::Gif),
        _ => None,
    };
    if found != Some(format) {
        return Err(wrong("is no image of the type that it says"));
    }
    let size = imagesize::blob_size(data);
    let size = size.map_err(|_| wrong("is an image whose size cannot be read"))?;
    let (width, height) = (size.width, size.height);
    let pixels = width.saturating_mul(height);
    if width.max(height) > limits::IMAGE_SIDE_MAX || pixels > limits::IMAGE_PIXELS_MAX {
        return Err(wrong(&format!(
            "has {width} by {height} pixels; at most {} a side and {} in all are taken",
            limits::IMAGE_SIDE_MAX,
            limits::IMAGE_PIXELS_MAX
        )));
    }
    match pixels {
        0 => Err(wrong("has no pixels")),
        _ => Ok(()),
    }
}
