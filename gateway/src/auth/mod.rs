//! Who sends a request, and how much they may.

mod keys;
mod limits;

pub(crate) use keys::{Caller, KeyRing};
pub(crate) use limits::{Budget, Charge, Exceeded};
