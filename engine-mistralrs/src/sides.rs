//! The size that a model takes an image in, from the image's own: as transformers
//! computes it, in whole units of pixels.

/// Width and height, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// How much longer than wide an image may be for [`Sides::Area`].
const RATIO_MAX: f64 = 200.0;

/// How an image's size becomes the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sides {
    /// One square for all.
    Square(u32),
    /// In the image's own shape, with so many pixels in all. What is more than 200
    /// times as long as wide is refused.
    Area { unit: u32, least: u64, most: u64 },
    /// In the image's own shape, made smaller where a side is longer than this.
    Within { unit: u32, longest: u32 },
}

impl Size {
    pub(crate) const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    pub(crate) fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

impl Sides {
    /// The size that an image is taken in; `Err` says why it is not.
    pub(crate) fn of(self, image: Size) -> Result<Size, String> {
        match self {
            Self::Square(side) => Ok(Size::new(side, side)),
            Self::Area { unit, least, most } => area(image, unit, [least as f64, most as f64]),
            Self::Within { unit, longest } => Ok(within(image, unit, longest)),
        }
    }
}

fn area(image: Size, unit: u32, [least, most]: [f64; 2]) -> Result<Size, String> {
    let Size { width, height } = image;
    let (long, short) = (width.max(height), width.min(height));
    if f64::from(long) / f64::from(short) > RATIO_MAX {
        return Err(format!(
            "an image of {width} by {height} pixels is too long for the model"
        ));
    }
    let sides = [width, height].map(f64::from);
    let unit = f64::from(unit);
    let mut taken = sides.map(|side| (side / unit).round_ties_even() * unit);
    let pixels = taken[0] * taken[1];
    if pixels > most {
        let smaller = (sides[0] * sides[1] / most).sqrt();
        taken = sides.map(|side| ((side / smaller / unit).floor() * unit).max(unit));
    } else if pixels < least {
        let larger = (least / (sides[0] * sides[1])).sqrt();
        taken = sides.map(|side| (side * larger / unit).ceil() * unit);
    }
    let [width, height] = taken.map(|side| side as u32);
    Ok(Size { width, height })
}

fn within(image: Size, unit: u32, longest: u32) -> Size {
    let sides = [image.width, image.height];
    let long = f64::from(image.width.max(image.height)) / f64::from(longest);
    let [width, height] = sides.map(|side| {
        let side = if long > 1.0 {
            (f64::from(side) / long).floor() as u32
        } else {
            side
        };
        // one that is as good as a line has a unit all the same
        side.max(1).div_ceil(unit) * unit
    });
    Size { width, height }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What transformers' `smart_resize` and `get_resize_output_image_size` say.
    #[test]
    fn sizes_are_those_of_transformers() {
        let sides = Sides::Area {
            unit: 32,
            least: 65_536,
            most: 4 << 20,
        };
        for (image, taken) in [
            ((1920, 1080), (1920, 1088)),
            ((640, 480), (640, 480)),
            // halves go to the even unit
            ((400, 336), (384, 320)),
            ((1, 1), (256, 256)),
            ((100, 20), (576, 128)),
            ((8000, 2000), (4096, 1024)),
            ((4000, 20), (4000, 32)),
        ] {
            let found = sides.of(Size::new(image.0, image.1)).unwrap();
            assert_eq!(found, Size::new(taken.0, taken.1), "{image:?}");
        }
        let small = Sides::Area {
            unit: 16,
            least: 256,
            most: 2048,
        };
        let long = small.of(Size::new(1600, 8)).unwrap();
        assert_eq!(long, Size::new(240, 16));
        // one side stays a unit, whatever that is in all
        let long = small.of(Size::new(1600, 16)).unwrap();
        assert_eq!(long, Size::new(448, 16));
        assert!(small.of(Size::new(1601, 8)).unwrap_err().contains("1601"));
        let within = Sides::Within {
            unit: 28,
            longest: 1540,
        };
        for (image, taken) in [
            ((1920, 1080), (1540, 868)),
            ((1540, 1), (1540, 28)),
            ((29, 28), (56, 28)),
            ((8000, 1), (1540, 28)),
        ] {
            let found = within.of(Size::new(image.0, image.1)).unwrap();
            assert_eq!(found, Size::new(taken.0, taken.1), "{image:?}");
        }
        assert_eq!(
            Sides::Square(8).of(Size::new(9, 1)).unwrap(),
            Size::new(8, 8)
        );
    }
}
