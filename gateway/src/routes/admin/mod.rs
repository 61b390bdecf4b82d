//! The administrator's routes. Every change is a compare-and-set that is
//! audited in the same transaction, and is effective here before the reply.

pub(crate) mod adapters;
pub(crate) mod aliases;
pub(crate) mod audit;
pub(crate) mod export;
pub(crate) mod kill;
mod precondition;
pub(crate) mod rollouts;
mod wire;
