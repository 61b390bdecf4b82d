//! Pure rollout logic: who gets the canary, which state follows which, and
//! when a guard stops it.
//!
//! Does no IO and has neither a clock nor a source of randomness: times, salts
//! and random draws are passed in. Knows nothing of HTTP, stores or models.
//!
//! See `ARCHITECTURE.md` for the invariants.
