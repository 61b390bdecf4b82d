//! Images in messages, as they were sent: encoded. What they show is an engine's
//! to find out, where its model takes images.

use bytes::Bytes;
use ids::Sha256Digest;
use serde::de::Error as _;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most images of one request.
pub const IMAGES_MAX: usize = 8;
/// The most bytes of one image as it is sent.
pub const IMAGE_BYTES_MAX: usize = 8 << 20;

/// How an image is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    Webp,
    /// GIF; its first picture counts.
    Gif,
}

impl ImageFormat {
    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }
}

/// An image in a message. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Where in the message's text it stands, in bytes.
    pub at: usize,
    /// How it is encoded.
    pub format: ImageFormat,
    /// As it was sent.
    pub data: Bytes,
}

impl Image {
    /// The digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.data)
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("at", &self.at)
            .field("format", &self.format)
            .field("bytes", &self.data.len())
            .finish()
    }
}

/// That there was one, never its bytes.
impl Serialize for Image {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Image", 4)?;
        fields.serialize_field("at", &self.at)?;
        fields.serialize_field("media_type", self.format.media_type())?;
        fields.serialize_field("digest", &self.digest())?;
        fields.serialize_field("bytes", &self.data.len())?;
        fields.end()
    }
}

/// Always an error: what was written is not the image. A message that had one does
/// not become one without.
impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("an image's bytes are not kept"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::{ChatMessage, Role};

    use super::*;

    #[test]
    fn a_written_message_says_that_it_had_an_image_and_is_not_read_without() {
        let mut message = ChatMessage::new(Role::User, "what?");
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"role":"user","content":"what?"}"#);
        assert_eq!(serde_json::from_str::<ChatMessage>(&text).unwrap(), message);
        message.images.push(Image {
            at: 5,
            format: ImageFormat::Png,
            data: Bytes::from_static(b"secret"),
        });
        let text = serde_json::to_string(&message).unwrap();
        let digest = Sha256Digest::of(b"secret").to_string();
        assert!(text.contains(&digest) && text.contains("image/png"));
        let said = format!("{text}{message:?}");
        assert!(!said.contains("secret") && !said.contains("115"), "{said}");
        assert!(serde_json::from_str::<ChatMessage>(&text).is_err());
    }
}
