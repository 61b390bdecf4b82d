//! Units that would otherwise be bare integers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::IdError;

/// A share of a whole in hundredths of a percent: 10000 is everything.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "u32", into = "u32")]
pub struct BasisPoints(u16);

impl BasisPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Everything.
    pub const WHOLE: Self = Self(10_000);

    /// The share of `points` ten-thousandths.
    ///
    /// # Errors
    /// [`IdError::BasisPoints`] above 10000.
    pub fn new(points: u32) -> Result<Self, IdError> {
        match u16::try_from(points) {
            Ok(points) if points <= 10_000 => Ok(Self(points)),
            _ => Err(IdError::BasisPoints(points)),
        }
    }

    /// The number of ten-thousandths.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for BasisPoints {
    type Error = IdError;

    fn try_from(points: u32) -> Result<Self, IdError> {
        Self::new(points)
    }
}

impl From<BasisPoints> for u32 {
    fn from(points: BasisPoints) -> u32 {
        u32::from(points.0)
    }
}

impl fmt::Display for BasisPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}%", self.0 / 100, self.0 % 100)
    }
}

/// Counts the changes of one control document; compare-and-set compares it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_share_ends_at_the_whole() {
        assert_eq!(BasisPoints::new(10_000).unwrap(), BasisPoints::WHOLE);
        assert!(BasisPoints::new(10_001).is_err());
        assert!(BasisPoints::new(u32::MAX).is_err());
        assert_eq!(BasisPoints::new(525).unwrap().to_string(), "5.25%");
        assert!(serde_json::from_str::<BasisPoints>("10001").is_err());
    }
}
