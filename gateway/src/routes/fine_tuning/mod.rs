//! Training files and fine-tuning jobs, in OpenAI's shapes. The trainer does
//! the jobs; here they are taken, shown, held and given up.

mod cursor;
pub(crate) mod files;
pub(crate) mod history;
pub(crate) mod jobs;
mod upload;
mod wire;
