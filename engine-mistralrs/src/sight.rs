//! How a model looks at images: the size that it takes each in, and what stands for
//! one in its prompt.
//!
//! Images are brought to that size here, before anything is queued, and the crate is
//! told to change nothing more. Its own preparation panics on what it does not like
//! (and with it the model's thread). So only models whose way of looking was read are
//! shown images: one picture for each image. What some of them could do beyond
//! (Idefics3 cuts large images into tiles) panics in 0.8.1 and is turned off.

use std::path::Path;

use engine::{EngineError, Image};
use image::imageops::FilterType;
use image::{DynamicImage, Rgba, RgbaImage};
use serde_json::{Map, Value as Json, json};

use crate::decoding::{decode, measure};
use crate::kinds::{Frame, Handed, shape};
use crate::sides::{Sides, Size};

/// A model's way of looking at images.
#[derive(Debug)]
pub(crate) struct Sight {
    pub(crate) sides: Sides,
    filter: FilterType,
    /// What the chat template writes for an image.
    pub(crate) marker: &'static str,
    /// The token whose embeddings the image's become.
    pub(crate) seat: &'static str,
    /// How many pixels wide and high what a seat stands for is.
    pub(crate) unit: u32,
    frame: Frame,
    pub(crate) handed: Handed,
    /// Tokens that the model knows by their numbers.
    pub(crate) known: Vec<(&'static str, u32)>,
    /// The token that the template writes before an image, and that after it, where
    /// the crate looks for images between the two.
    pub(crate) between: Option<[&'static str; 2]>,
    mean: Json,
    deviation: Json,
    factor: Json,
    /// What the crate's processor wants to know beside that.
    more: Map<String, Json>,
    processor: Json,
}

impl Sight {
    /// How the model of a folder looks at images, or why it is shown none.
    pub(crate) fn of(config: &Map<String, Json>, folder: &Path) -> Result<Self, String> {
        let (shape, prepared) = shape(config, folder)?;
        let filter = prepared.get("resample").and_then(Json::as_u64);
        let or = |key: &str, default: Json| match prepared.get(key) {
            Some(value) if !value.is_null() => value.clone(),
            _ => default,
        };
        Ok(Self {
            sides: shape.sides,
            filter: match filter.unwrap_or(shape.filter_default) {
                0 => FilterType::Nearest,
                1 => FilterType::Lanczos3,
                2 => FilterType::Triangle,
                3 => FilterType::CatmullRom,
                other => return Err(format!("resample is {other}")),
            },
            marker: shape.marker,
            seat: shape.seat,
            unit: u32::try_from(shape.unit).map_err(|error| error.to_string())?,
            frame: shape.frame,
            handed: shape.handed,
            known: shape.known,
            between: shape.between,
            mean: or("image_mean", json!([0.5, 0.5, 0.5])),
            deviation: or("image_std", json!([0.5, 0.5, 0.5])),
            factor: or("rescale_factor", json!(1.0 / 255.0)),
            more: match shape.more {
                Json::Object(more) => more,
                _ => Map::new(),
            },
            processor: shape.processor,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_tests(sides: Sides, handed: Handed) -> Self {
        Self {
            sides,
            filter: FilterType::Triangle,
            marker: "<image>",
            seat: "<image>",
            unit: 8,
            frame: Frame {
                before: "<around>",
                between_rows: "",
                after: "<around>",
            },
            handed,
            known: Vec::new(),
            between: None,
            mean: Json::Null,
            deviation: Json::Null,
            factor: Json::Null,
            more: Map::new(),
            processor: Json::Null,
        }
    }

    /// `preprocessor_config.json` as the crate is given it: an image as it comes
    /// from [`Self::see`] stays as it is, but for the scale of its values.
    pub(crate) fn preprocessor(&self) -> Json {
        let mut fields = json!({
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
        });
        if let Json::Object(fields) = &mut fields {
            fields.extend(self.more.clone());
        }
        fields
    }

    /// Everything of it that answers depend on.
    pub(crate) fn form(&self) -> String {
        let Self { sides, filter, .. } = self;
        let (looks, prepared) = (self.expansion(self.some_size()), self.preprocessor());
        let own_shape = match sides {
            Sides::Square(_) => String::new(),
            _ => format!(" {sides:?}"),
        };
        format!(" {filter:?} {looks} {prepared}{own_shape}")
    }

    /// `processor_config.json` as the crate is given it.
    pub(crate) fn processor(&self) -> &Json {
        &self.processor
    }

    /// The size that an image is taken in, as its header says; `Err` says why it is
    /// not.
    pub(crate) fn size(&self, image: &Image) -> Result<Size, String> {
        self.sides.of(measure(image).map_err(undecodable)?)
    }

    /// Some size that an image may be taken in.
    pub(crate) fn some_size(&self) -> Size {
        match self.sides {
            Sides::Square(side) => Size::new(side, side),
            _ => Size::new(2 * self.unit, 3 * self.unit),
        }
    }

    /// Columns and rows of an image's seats.
    fn seats(&self, size: Size) -> [usize; 2] {
        [size.width, size.height].map(|side| (side / self.unit) as usize)
    }

    /// What stands for an image of this size in the prompt.
    pub(crate) fn expansion(&self, size: Size) -> String {
        let Frame {
            before,
            between_rows,
            after,
        } = self.frame;
        let [columns, rows] = self.seats(size);
        let rows = vec![self.seat.repeat(columns); rows];
        format!("{before}{}{after}", rows.join(between_rows))
    }

    /// A token that an answer beside images never has: the crate would look for an
    /// image behind it, and fail.
    pub(crate) fn unsaid(&self) -> Option<u32> {
        let [before, _] = self.between?;
        let mut known = self.known.iter();
        known
            .find(|(token, _)| *token == before)
            .map(|(_, number)| *number)
    }

    /// How many seats it has.
    pub(crate) fn seat_count(&self, size: Size) -> usize {
        self.seats(size).iter().product()
    }

    /// The bytes of an image of this size as the crate is given it.
    pub(crate) fn seen_bytes(&self, size: Size) -> u64 {
        let channels = match self.sides {
            Sides::Square(_) => 3,
            _ => 4,
        };
        size.pixels() * channels
    }

    /// An image as the crate is given it. Takes long; not to be called from an async
    /// task.
    pub(crate) fn see(&self, image: &Image) -> Result<DynamicImage, EngineError> {
        let Size { width, height } = self.size(image).map_err(invalid)?;
        let decoded = decode(image).map_err(|error| invalid(undecodable(error)))?;
        let rgb = DynamicImage::ImageRgb8(decoded.into_rgb8());
        let seen = rgb.resize_exact(width, height, self.filter);
        Ok(match self.sides {
            Sides::Square(_) => seen,
            _ => DynamicImage::ImageRgba8(with_width(seen.into_rgba8())),
        })
    }
}

/// An image whose first pixels' transparency says its width. The crate keeps what it
/// saw by a hash of the bytes alone, in which other sides are the same image; of
/// transparency it makes nothing else.
fn with_width(mut image: RgbaImage) -> RgbaImage {
    let width = image.width().to_le_bytes();
    for (Rgba([.., alpha]), byte) in image.pixels_mut().zip(width) {
        *alpha = byte;
    }
    image
}

fn invalid(reason: String) -> EngineError {
    EngineError::InvalidRequest {
        param: "messages",
        reason,
    }
}

fn undecodable(error: image::ImageError) -> String {
    format!("an image cannot be decoded: {error}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use engine::ImageFormat;

    use super::*;

    /// A photo that a camera turned is seen upright.
    #[test]
    fn pictures_are_upright_and_without_transparency() {
        let sight = Sight::for_tests(Sides::Square(8), Handed::Marked);
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
        let see = |sight: &Sight, image: &Image| sight.see(image).unwrap().into_rgb8();
        let seen = see(&sight, &image(file.into_inner(), ImageFormat::Png));
        assert_eq!((seen.width(), seen.height()), (8, 8));
        assert_eq!((seen[(0, 0)].0, seen[(7, 7)].0), ([200, 0, 0], [0, 0, 200]));
        let mut file = Cursor::new(Vec::new());
        let picture = DynamicImage::from(picture.into_rgb8());
        picture
            .write_to(&mut file, image::ImageFormat::Jpeg)
            .unwrap();
        let bytes = turned(file.into_inner());
        let seen = see(&sight, &image(bytes, ImageFormat::Jpeg));
        let (top, bottom) = (seen[(7, 0)].0, seen[(0, 7)].0);
        assert!(top[0] > 150 && bottom[2] > 150, "{top:?} {bottom:?}");
    }

    #[test]
    fn an_image_keeps_its_shape_upright_and_says_its_width() {
        let sides = Sides::Within {
            unit: 8,
            longest: 32,
        };
        let sight = Sight::for_tests(sides, Handed::Expanded);
        let mut file = Cursor::new(Vec::new());
        let picture = image::RgbImage::from_pixel(64, 20, image::Rgb([9, 9, 9]));
        let picture = DynamicImage::from(picture);
        picture
            .write_to(&mut file, image::ImageFormat::Jpeg)
            .unwrap();
        let mut image = Image {
            at: 0,
            format: ImageFormat::Jpeg,
            data: file.into_inner().into(),
        };
        assert_eq!(sight.size(&image), Ok(Size::new(32, 16)));
        let lying = sight.see(&image).unwrap();
        image.data = turned(image.data.to_vec()).into();
        let size = sight.size(&image).unwrap();
        assert_eq!(size, Size::new(16, 32));
        let standing = sight.see(&image).unwrap();
        assert_eq!((standing.width(), standing.height()), (16, 32));
        assert_eq!(standing.as_bytes().len() as u64, sight.seen_bytes(size));
        // of one colour, and yet not the same bytes
        assert_ne!(lying.as_bytes(), standing.as_bytes());
        assert_eq!(
            lying.to_rgb8().into_raw()[..9],
            standing.to_rgb8().into_raw()[..9]
        );
        assert_eq!(sight.seat_count(size), 8);
        assert_eq!(sight.expansion(size).matches("<image>").count(), 8);
        image.data.truncate(30);
        assert!(sight.size(&image).unwrap_err().contains("decoded"));
        assert!(sight.see(&image).is_err());
    }

    /// A JPEG with EXIF's orientation 6: to be turned by 90 degrees to the right.
    fn turned(mut jpeg: Vec<u8>) -> Vec<u8> {
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        jpeg.splice(2..2, exif.iter().copied());
        jpeg
    }
}
