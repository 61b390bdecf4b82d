//! The suite that any engine passes.
