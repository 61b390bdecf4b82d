//! How a model looks at images: the size that it takes them in, and what stands for
//! one in its prompt.
//!
//! Images are brought to that size here, before anything is queued, and the crate is
//! told to change nothing more. Its own preparation panics on what it does not like
//! (and with it the model's thread), and it keeps what it saw by a hash of the pixels
//! alone, without width and height. So only models whose way of looking was read are
//! shown images: one picture of one size for each image. What some of them could do
//! beyond (Idefics3 cuts large images into tiles) panics in 0.8.1 and is turned off.

use std::io::Cursor;
use std::path::Path;

use engine::{EngineError, Image, ImageFormat};
use image::error::{LimitError, LimitErrorKind};
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};
use serde_json::{Map, Value as Json, json};

/// The longest `preprocessor_config.json` and `processor_config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest side that a model may take images in, in pixels.
const SIDE_MAX: u64 = 2048;
/// The longest side of an image that is decoded, in pixels.
const DECODED_SIDE_MAX: u32 = 8192;
/// The most pixels of an image that is decoded.
const DECODED_PIXELS_MAX: u64 = 16 << 20;
/// The most bytes of a decoded image: four channels of two bytes for 16 megapixels.
/// What its decoder works with is bounded alike where it counts that, and while it is
/// turned, converted and made smaller there are copies.
const DECODED_BYTES_MAX: u64 = 128 << 20;
/// Bytes of a pixel as models take it.
const PIXEL_BYTES: u64 = 3;

/// A model's way of looking at images.
#[derive(Debug)]
pub(crate) struct Sight {
    /// Width and height that an image is brought to, in pixels.
    side: u32,
    filter: FilterType,
    /// What the chat template writes for an image.
    pub(crate) marker: &'static str,
    /// What the crate makes of it.
    pub(crate) expansion: String,
    /// The token whose embeddings the image's become.
    pub(crate) seat: &'static str,
    /// How many of them an image takes.
    pub(crate) seats: usize,
    mean: Json,
    deviation: Json,
    factor: Json,
}

/// The sizes of a vision model, from its configuration.
struct Shape {
    side: u64,
    seats: u64,
    marker: &'static str,
    seat: &'static str,
    around: [&'static str; 2],
    /// By Pillow's numbers.
    filter_default: u64,
}

impl Sight {
    /// How the model of a folder looks at images, or why it is shown none.
    pub(crate) fn of(config: &Map<String, Json>, folder: &Path) -> Result<Self, String> {
        let prepared = prepared(folder)?;
        let shape = match architecture(config) {
            Some("Idefics3ForConditionalGeneration") => idefics3(config, &prepared)?,
            Some("Gemma3ForConditionalGeneration") => gemma3(config)?,
            other => {
                let name = other.unwrap_or("without a name");
                return Err(format!(
                    "images are not passed on to the architecture {name}"
                ));
            }
        };
        let side = u32::try_from(shape.side).map_err(|error| error.to_string())?;
        let seats = usize::try_from(shape.seats).map_err(|error| error.to_string())?;
        let filter = prepared.get("resample").and_then(Json::as_u64);
        let or = |key: &str, default: Json| match prepared.get(key) {
            Some(value) if !value.is_null() => value.clone(),
            _ => default,
        };
        let [before, after] = shape.around;
        Ok(Self {
            side,
            filter: match filter.unwrap_or(shape.filter_default) {
                0 => FilterType::Nearest,
                1 => FilterType::Lanczos3,
                2 => FilterType::Triangle,
                3 => FilterType::CatmullRom,
                other => return Err(format!("resample is {other}")),
            },
            marker: shape.marker,
            expansion: format!("{before}{}{after}", shape.seat.repeat(seats)),
            seat: shape.seat,
            seats,
            mean: or("image_mean", json!([0.5, 0.5, 0.5])),
            deviation: or("image_std", json!([0.5, 0.5, 0.5])),
            factor: or("rescale_factor", json!(1.0 / 255.0)),
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(marker: &'static str, expansion: &str, seats: usize) -> Self {
        Self {
            side: 8,
            filter: FilterType::Triangle,
            marker,
            expansion: expansion.to_owned(),
            seat: marker,
            seats,
            mean: Json::Null,
            deviation: Json::Null,
            factor: Json::Null,
        }
    }

    /// `preprocessor_config.json` as the crate is given it: an image as it comes
    /// from [`Self::see`] stays as it is, but for the scale of its values.
    pub(crate) fn preprocessor(&self) -> Json {
        json!({
            "do_convert_rgb": true,
            "do_resize": false,
            "do_image_splitting": false,
            "do_pan_and_scan": false,
            "do_pad": true,
            "do_rescale": true,
            "do_normalize": true,
            "rescale_factor": self.factor,
            "image_mean": self.mean,
            "image_std": self.deviation,
            "size": {"height": self.side, "width": self.side},
            "max_image_size": {"longest_edge": self.side},
        })
    }

    /// Everything of it that answers depend on.
    pub(crate) fn form(&self) -> String {
        let Self {
            filter, expansion, ..
        } = self;
        format!(" {filter:?} {expansion} {}", self.preprocessor())
    }

    /// `processor_config.json` as the crate is given it.
    pub(crate) fn processor(&self) -> Json {
        json!({"image_seq_len": self.seats})
    }

    /// The bytes of an image as the model takes it.
    pub(crate) fn seen_bytes(&self) -> u64 {
        u64::from(self.side) * u64::from(self.side) * PIXEL_BYTES
    }

    /// An image as the model takes it. Takes long; not to be called from an async
    /// task.
    pub(crate) fn see(&self, image: &Image) -> Result<RgbImage, EngineError> {
        let decoded = decode(image).map_err(|error| EngineError::InvalidRequest {
            param: "messages",
            reason: format!("an image cannot be decoded: {error}"),
        })?;
        let rgb = DynamicImage::ImageRgb8(decoded.into_rgb8());
        let seen = rgb.resize_exact(self.side, self.side, self.filter);
        Ok(seen.into_rgb8())
    }
}

/// The first picture of an image, upright.
fn decode(image: &Image) -> Result<DynamicImage, ImageError> {
    let format = match image.format {
        ImageFormat::Png => image::ImageFormat::Png,
        ImageFormat::Jpeg => image::ImageFormat::Jpeg,
        ImageFormat::Webp => image::ImageFormat::WebP,
        ImageFormat::Gif => image::ImageFormat::Gif,
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(DECODED_SIDE_MAX);
    limits.max_image_height = Some(DECODED_SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(&image.data[..]), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    // what its header said elsewhere need not be what the decoder reads
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > DECODED_PIXELS_MAX {
        let kind = LimitErrorKind::DimensionError;
        return Err(ImageError::Limits(LimitError::from_kind(kind)));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder)?;
    decoded.apply_orientation(orientation);
    Ok(decoded)
}

fn architecture(config: &Map<String, Json>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// How the model's images are prepared, from the file that says so: of its own, or
/// a part of the processor's.
fn prepared(folder: &Path) -> Result<Map<String, Json>, String> {
    if let Some(own) = read(&folder.join("preprocessor_config.json"))? {
        return Ok(own);
    }
    match read(&folder.join("processor_config.json"))? {
        Some(mut whole) => match whole.remove("image_processor") {
            Some(Json::Object(part)) => Ok(part),
            _ => Ok(whole),
        },
        None => Err("it has no preprocessor_config.json".to_owned()),
    }
}

fn read(path: &Path) -> Result<Option<Map<String, Json>>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if length > CONFIG_BYTES_MAX {
        return Err(wrong(&"it is too long"));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(&e))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| wrong(&e))
}

fn number(value: Option<&Json>, what: &str) -> Result<u64, String> {
    let number = value.and_then(Json::as_u64).filter(|&number| number > 0);
    number.ok_or_else(|| format!("{what} is not a number above 0"))
}

/// The side of a vision tower's images and of its patches.
fn vision(config: &Map<String, Json>) -> Result<(u64, u64), String> {
    let vision = config.get("vision_config");
    let vision = |key: &str| number(vision.and_then(|vision| vision.get(key)), key);
    Ok((vision("image_size")?, vision("patch_size")?))
}

/// Whether the sides fit: patches in an image, and seats among the patches.
fn fits(side: u64, patch: u64, pooled: u64) -> Result<u64, String> {
    let patches = side / patch;
    if side > SIDE_MAX || side % patch != 0 || patches % pooled != 0 {
        return Err(format!(
            "images of {side} pixels do not go into patches of {patch}, {pooled} by {pooled} pooled"
        ));
    }
    Ok((patches / pooled).pow(2))
}

fn idefics3(config: &Map<String, Json>, prepared: &Map<String, Json>) -> Result<Shape, String> {
    let (largest, patch) = vision(config)?;
    let scale = number(config.get("scale_factor"), "scale_factor")?;
    let edge = prepared.get("max_image_size");
    let edge = edge.and_then(|size| size.get("longest_edge"));
    let side = number(edge, "max_image_size.longest_edge")?;
    if side > largest {
        return Err(format!("images of {side} pixels are larger than {largest}"));
    }
    Ok(Shape {
        side,
        seats: fits(side, patch, scale)?,
        marker: "<image>",
        seat: "<image>",
        around: [
            "<fake_token_around_image><global-img>",
            "<fake_token_around_image>",
        ],
        filter_default: 1,
    })
}

fn gemma3(config: &Map<String, Json>) -> Result<Shape, String> {
    let (side, patch) = vision(config)?;
    let seats = number(config.get("mm_tokens_per_image"), "mm_tokens_per_image")?;
    let row = seats.isqrt();
    let pooled = (side / patch).checked_div(row).filter(|&pooled| pooled > 0);
    let pooled = pooled.ok_or("mm_tokens_per_image are more than patches")?;
    if fits(side, patch, pooled)? != seats {
        return Err(format!(
            "{seats} mm_tokens_per_image are no square of patches"
        ));
    }
    Ok(Shape {
        side,
        seats,
        marker: "<start_of_image>",
        seat: "<image_soft_token>",
        around: ["\n\n<start_of_image>", "<end_of_image>\n\n"],
        filter_default: 2,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The golden's configurations, with these values changed.
    fn sight(name: &str, config: &Json, prepared: &Json) -> Result<Sight, String> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vision");
        let folder = tempfile::tempdir().unwrap();
        let read = |file: &str, changes: &Json| {
            let mut map = read(&golden.join(name).join(file)).unwrap().unwrap();
            for (key, value) in changes.as_object().unwrap() {
                match map.get_mut(key) {
                    Some(Json::Object(part)) => part.extend(value.as_object().unwrap().clone()),
                    _ => {
                        map.insert(key.clone(), value.clone());
                    }
                }
            }
            map
        };
        let prepared = Json::Object(read("preprocessor_config.json", prepared));
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(path, prepared.to_string()).unwrap();
        Sight::of(&read("config.json", config), folder.path())
    }

    #[test]
    fn the_sizes_come_from_the_configuration() {
        let same = json!({});
        let small = sight("idefics3", &same, &same).unwrap();
        assert_eq!(
            (small.side, small.seats, small.filter),
            (32, 4, FilterType::Lanczos3)
        );
        assert_eq!(small.expansion.matches("<image>").count(), 4);
        let gemma = sight("gemma3", &same, &same).unwrap();
        assert_eq!(
            (gemma.side, gemma.seats, gemma.filter),
            (32, 4, FilterType::Triangle)
        );
        assert_eq!(gemma.seen_bytes(), 32 * 32 * 3);
        assert_ne!(small.form(), gemma.form());
        // as SmolVLM and Gemma 3 are published
        let large =
            json!({"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4});
        let edge = json!({"max_image_size": {"longest_edge": 512}});
        assert_eq!(sight("idefics3", &large, &edge).unwrap().seats, 64);
        let large = json!({"vision_config": {"image_size": 896, "patch_size": 14}, "mm_tokens_per_image": 256});
        assert_eq!(sight("gemma3", &large, &same).unwrap().seats, 256);
    }

    #[test]
    fn what_does_not_fit_is_said_before_the_crate_panics() {
        let same = json!({});
        let reason = |name, config: Json, prepared: Json| {
            sight(name, &config, &prepared).map(|_| ()).unwrap_err()
        };
        let odd = reason("idefics3", json!({"scale_factor": 3}), same.clone());
        assert!(odd.contains("pooled"), "{odd}");
        let wide = json!({"max_image_size": {"longest_edge": 40}});
        assert!(reason("idefics3", same.clone(), wide).contains("larger"));
        let no = json!({"max_image_size": {"longest_edge": 0}});
        assert!(reason("idefics3", same.clone(), no).contains("longest_edge"));
        for seats in [3, 9, 0, 1_000_000] {
            let config = json!({"mm_tokens_per_image": seats});
            reason("gemma3", config, same.clone());
        }
        let other = json!({"architectures": ["LlavaForConditionalGeneration"]});
        assert!(reason("gemma3", other, same.clone()).contains("Llava"));
        let filter = json!({"resample": 9});
        assert!(reason("gemma3", same, filter).contains("resample"));
        let nowhere = Sight::of(&Map::new(), Path::new("/nowhere"));
        assert!(nowhere.unwrap_err().contains("preprocessor_config.json"));
    }

    /// A photo that a camera turned is seen upright.
    #[test]
    fn pictures_are_upright_and_without_transparency() {
        let sight = Sight::for_tests("<i>", "", 1);
        let picture = image::RgbaImage::from_fn(8, 8, |x, _| match x < 4 {
            true => image::Rgba([200, 0, 0, 0]),
            false => image::Rgba([0, 0, 200, 255]),
        });
        let mut file = Cursor::new(Vec::new());
        let picture = DynamicImage::from(picture);
        picture
            .write_to(&mut file, image::ImageFormat::Png)
            .unwrap();
        let image = |data: Vec<u8>, format| Image {
            at: 0,
            format,
            data: data.into(),
        };
        let seen = sight
            .see(&image(file.into_inner(), ImageFormat::Png))
            .unwrap();
        assert_eq!((seen.width(), seen.height()), (8, 8));
        assert_eq!((seen[(0, 0)].0, seen[(7, 7)].0), ([200, 0, 0], [0, 0, 200]));
        let mut file = Cursor::new(Vec::new());
        let picture = DynamicImage::from(picture.into_rgb8());
        picture
            .write_to(&mut file, image::ImageFormat::Jpeg)
            .unwrap();
        let mut bytes = file.into_inner();
        // EXIF's orientation 6: to be turned by 90 degrees to the right
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        bytes.splice(2..2, exif.iter().copied());
        let seen = sight.see(&image(bytes, ImageFormat::Jpeg)).unwrap();
        let (top, bottom) = (seen[(7, 0)].0, seen[(0, 7)].0);
        assert!(top[0] > 150 && bottom[2] > 150, "{top:?} {bottom:?}");
    }
}
