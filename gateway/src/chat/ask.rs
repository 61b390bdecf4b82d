//! From the wire's request to the engine's.

use actix_web::HttpRequest;
use engine::{
    ChatMessage, ChatRequest, Constraint, Grammar, Image, ImageFormat, Role, SamplingParams, Tool,
    ToolCall, ToolChoice, ToolUse,
};
use ids::UnitId;
use openapi::{
    AnswerFormat, AnswerFormatKind, ChatCompletionRequest, MessageRole, RequestFunction,
    RequestImage, RequestImageFormat, RequestToolChoice, RequestTools,
};

use crate::errors::ApiError;
use crate::headers::SESSION_ID;

/// The metadata entry that can name a session.
const SESSION_METADATA: &str = "session_id";

fn role(role: MessageRole) -> Role {
    match role {
        MessageRole::System => Role::System,
        MessageRole::User => Role::User,
        MessageRole::Assistant => Role::Assistant,
        MessageRole::Tool => Role::Tool,
    }
}

fn image(image: &RequestImage) -> Image {
    Image {
        at: image.at,
        format: match image.format {
            RequestImageFormat::Png => ImageFormat::Png,
            RequestImageFormat::Jpeg => ImageFormat::Jpeg,
            RequestImageFormat::Webp => ImageFormat::Webp,
            RequestImageFormat::Gif => ImageFormat::Gif,
        },
        data: image.data.clone(),
    }
}

fn message(message: &openapi::RequestMessage) -> ChatMessage {
    let call = |call: &openapi::MessageToolCall| ToolCall {
        id: call.id.clone(),
        name: call.function.name.clone(),
        arguments: call.function.arguments.clone(),
    };
    ChatMessage {
        images: message.images.iter().map(image).collect(),
        role: role(message.role),
        content: message.content.clone(),
        tool_calls: message.tool_calls.iter().map(call).collect(),
        tool_call_id: message.tool_call_id.clone(),
    }
}

fn tools(tools: &RequestTools) -> ToolUse {
    let tool = |function: &RequestFunction| Tool {
        name: function.name.clone(),
        description: function.description.clone(),
        parameters: function.parameters.clone(),
        is_strict: function.is_strict,
    };
    ToolUse {
        tools: tools.functions.iter().map(tool).collect(),
        choice: match &tools.choice {
            RequestToolChoice::Auto => ToolChoice::Auto,
            RequestToolChoice::Required => ToolChoice::Required,
            RequestToolChoice::Named(name) => ToolChoice::Named(name.clone()),
        },
        is_parallel: tools.is_parallel,
    }
}

fn constraint(format: &AnswerFormat) -> Constraint {
    let grammar = match &format.kind {
        AnswerFormatKind::JsonObject => Grammar::JsonObject,
        AnswerFormatKind::JsonSchema(schema) => Grammar::JsonSchema(schema.clone()),
        AnswerFormatKind::Regex(expression) => Grammar::Regex(expression.clone()),
        AnswerFormatKind::Grammar(source) => Grammar::Lark(source.clone()),
    };
    let param = format.param;
    Constraint { param, grammar }
}

/// The engine's request; the adapter is filled in when the route is known.
pub(super) fn question(request: &ChatCompletionRequest, seed: u64) -> ChatRequest {
    ChatRequest {
        messages: request.messages.iter().map(message).collect(),
        tools: request.tools.as_ref().map(tools),
        tenant: None,
        adapter: None,
        sampling: SamplingParams {
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            min_p: request.min_p,
            frequency_penalty: request.frequency_penalty,
            presence_penalty: request.presence_penalty,
            repetition_penalty: request.repetition_penalty,
            logit_bias: request.logit_bias.clone(),
            seed,
        },
        max_tokens: request.max_tokens,
        stop: request.stop.clone(),
        n: request.n,
        top_logprobs: request.top_logprobs,
        ignore_eos: request.ignore_eos,
        constraint: request.format.as_ref().map(constraint),
    }
}

/// The unit of assignment: the first that is present. Never the API key, which
/// would send a whole company to one arm.
pub(super) fn unit(
    request: &ChatCompletionRequest,
    http: &HttpRequest,
) -> Result<Option<UnitId>, ApiError> {
    let header = match http.headers().get(SESSION_ID) {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| ApiError::Http(crate::errors::HttpProblem::Header(SESSION_ID)))?,
        ),
    };
    let candidates = [
        ("safety_identifier", request.safety_identifier.as_deref()),
        ("user", request.user.as_deref()),
        (SESSION_ID, header),
        (
            "metadata.session_id",
            request.metadata.get(SESSION_METADATA).map(String::as_str),
        ),
    ];
    let found = candidates.into_iter().find_map(|(name, value)| {
        value
            .filter(|value| !value.is_empty())
            .map(|value| (name, value))
    });
    let Some((name, value)) = found else {
        return Ok(None);
    };
    UnitId::new(value)
        .map(Some)
        .map_err(|error| ApiError::invalid(name, error.to_string()))
}
