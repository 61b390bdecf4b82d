//! Chat completions: what is asked and what is answered.

mod format;
mod parse;
mod request;
mod response;

pub use format::{
    AnswerFormat, AnswerFormatKind, JsonSchemaBody, ResponseFormatBody, StructuredOutputsBody,
};
pub use request::{
    AdapterSelector, ChatCompletionBody, ChatCompletionRequest, ContentBody, ContentPart,
    MessageBody, MessageRole, RequestMessage, StopBody, StreamOptions, limits,
};
pub use response::{
    AssistantMessage, AssistantRole, ChatChoice, ChatChunk, ChatChunkChoice, ChatChunkObject,
    ChatCompletion, ChatCompletionObject, ChatDelta, ChoiceLogprobs, CompletionTokensDetails,
    FinishReason, PromptTokensDetails, TokenLogprob, TopLogprob, Usage,
};
