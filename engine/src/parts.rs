//! What an engine that runs in this process can be made of, whatever computes
//! its logits: adapter versions with leases, prompts, grammars, and completions
//! (the choice of tokens, their text and calls). The native engine is made of
//! them, and so are others.

pub use crate::native::completion::{Advance, Beginning, Completion, events_max};
pub use crate::native::constraint::{GrammarState, Grammars};
pub use crate::native::encoders::{ENCODING_MAX, Encoders};
pub use crate::native::prompt::{encode_chat, template_json, tool_markup};
pub use crate::residents::{CLAIM_GRACE, Lease, Reservation, Resident, Residents};
pub use crate::tools::Read;
pub use crate::vocabulary::Vocabulary;
