//! Chat completions: what is asked and what is answered.

mod format;
mod images;
mod messages;
mod parse;
mod request;
mod response;
mod tools;

pub use format::{
    AnswerFormat, AnswerFormatKind, JsonSchemaBody, ResponseFormatBody, StructuredOutputsBody,
};
pub use images::{ImageDetail, ImageUrl, RequestImage, RequestImageFormat};
pub use request::{
    AdapterSelector, ChatCompletionBody, ChatCompletionRequest, ContentBody, ContentPart,
    MessageBody, MessageRole, RequestMessage, StopBody, StreamOptions, limits,
};
pub use response::{
    AssistantMessage, AssistantRole, ChatChoice, ChatChunk, ChatChunkChoice, ChatChunkObject,
    ChatCompletion, ChatCompletionObject, ChatDelta, ChoiceLogprobs, CompletionTokensDetails,
    FinishReason, PromptTokensDetails, TokenLogprob, TopLogprob, Usage,
};
pub use tools::{
    CalledFunction, CalledFunctionDelta, FunctionBody, FunctionName, MessageToolCall,
    RequestFunction, RequestToolChoice, RequestTools, ToolBody, ToolCallDelta, ToolChoiceBody,
    ToolChoiceFunction, ToolChoiceMode, ToolKind,
};
