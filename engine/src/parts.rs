//! What an engine that runs in this process can be made of, whatever computes
//! its logits: adapter versions with leases, the choice of tokens, their text,
//! and grammars. The native engine is made of them, and so are others.

pub use crate::native::constraint::{GrammarState, Grammars};
pub use crate::native::sampler::{Logprobs, Sampler, logprobs};
pub use crate::native::text::{TextStream, Visible};
pub use crate::residents::{CLAIM_GRACE, Lease, Reservation, Resident, Residents};
pub use crate::vocabulary::Vocabulary;
