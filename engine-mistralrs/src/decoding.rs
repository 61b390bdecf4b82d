//! Encoded images to pixels: the first picture of each, upright. Its size is known
//! from the header, before anything is decoded.

use std::io::Cursor;

use engine::{Image, ImageFormat};
use image::error::{LimitError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use crate::sides::Size;

/// The longest side of an image that is decoded, in pixels.
const SIDE_MAX: u32 = 8192;
/// The most pixels of an image that is decoded.
const PIXELS_MAX: u64 = 16 << 20;
/// The most bytes of a decoded image: four channels of two bytes for 16 megapixels.
/// What its decoder works with is bounded alike where it counts that, and while it is
/// turned, converted and made smaller there are copies.
const BYTES_MAX: u64 = 128 << 20;

/// The size of an image as [`decode`] gives it.
pub(crate) fn measure(image: &Image) -> Result<Size, ImageError> {
    let (decoder, orientation) = opened(image)?;
    let (width, height) = decoder.dimensions();
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let turned = matches!(
        orientation,
        Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH
    );
    Ok(if turned {
        Size::new(height, width)
    } else {
        Size::new(width, height)
    })
}

/// The first picture of an image, upright.
pub(crate) fn decode(image: &Image) -> Result<DynamicImage, ImageError> {
    let (decoder, orientation) = opened(image)?;
    let mut decoded = DynamicImage::from_decoder(decoder)?;
    decoded.apply_orientation(orientation);
    Ok(decoded)
}

/// An image's decoder after its header, and how the picture is to be turned.
fn opened(image: &Image) -> Result<(impl ImageDecoder + '_, Orientation), ImageError> {
    let format = match image.format {
        ImageFormat::Png => image::ImageFormat::Png,
        ImageFormat::Jpeg => image::ImageFormat::Jpeg,
        ImageFormat::Webp => image::ImageFormat::WebP,
        ImageFormat::Gif => image::ImageFormat::Gif,
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(BYTES_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(&image.data[..]), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    // what its header said elsewhere need not be what the decoder reads
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        let kind = LimitErrorKind::DimensionError;
        return Err(ImageError::Limits(LimitError::from_kind(kind)));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, orientation))
}
