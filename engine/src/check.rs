//! The ranges of a request's parameters, the same for every engine.

use crate::api::{
    BaseInfo, ChatMessage, ChatRequest, EngineError, MAX_CHOICES, MAX_STOPS, Role, SamplingParams,
};
use crate::image::{IMAGE_BYTES_MAX, IMAGES_MAX};

/// The most tokens that may have a bias.
const LOGIT_BIASES_MAX: usize = 1024;
/// The longest stop text in bytes.
const STOP_BYTES_MAX: usize = 1024;
/// What a repetition penalty may be; logits divided by less could overflow.
const REPETITION_PENALTIES: std::ops::RangeInclusive<f32> = 0.01..=10.0;
/// The most alternatives with log-probabilities.
const TOP_LOGPROBS_MAX: u8 = 20;

fn in_range(
    param: &'static str,
    value: f32,
    range: std::ops::RangeInclusive<f32>,
) -> Result<(), EngineError> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!(
        "{value} is not between {} and {}",
        range.start(),
        range.end()
    );
    Err(EngineError::InvalidRequest { param, reason })
}

fn require(holds: bool, param: &'static str, reason: &str) -> Result<(), EngineError> {
    if holds {
        return Ok(());
    }
    Err(EngineError::InvalidRequest {
        param,
        reason: reason.to_owned(),
    })
}

impl SamplingParams {
    /// Refuses values outside their range, naming the parameter.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check(&self) -> Result<(), EngineError> {
        in_range("temperature", self.temperature, 0.0..=2.0)?;
        in_range("top_p", self.top_p, 0.0..=1.0)?;
        require(self.top_p > 0.0, "top_p", "it must be above 0")?;
        in_range("min_p", self.min_p, 0.0..=1.0)?;
        in_range("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?;
        in_range("presence_penalty", self.presence_penalty, -2.0..=2.0)?;
        in_range(
            "repetition_penalty",
            self.repetition_penalty,
            REPETITION_PENALTIES,
        )?;
        require(
            self.logit_bias.len() <= LOGIT_BIASES_MAX,
            "logit_bias",
            "too many tokens",
        )?;
        self.logit_bias
            .values()
            .try_for_each(|&bias| in_range("logit_bias", bias, -100.0..=100.0))
    }
}

impl ChatRequest {
    /// Refuses parameters outside their range, naming the first.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check(&self) -> Result<(), EngineError> {
        require(!self.messages.is_empty(), "messages", "there is none")?;
        check_images(&self.messages)?;
        self.sampling.check()?;
        require(
            self.max_tokens != Some(0),
            "max_tokens",
            "it must be at least 1",
        )?;
        require(
            (1..=MAX_CHOICES).contains(&self.n),
            "n",
            "it must be between 1 and 8",
        )?;
        require(
            self.stop.len() <= MAX_STOPS,
            "stop",
            "there may be at most 4",
        )?;
        require(
            self.stop.iter().all(|stop| !stop.is_empty()),
            "stop",
            "one is empty",
        )?;
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        require(longest <= STOP_BYTES_MAX, "stop", "one is too long")?;
        require(
            !self.ignore_eos || (self.constraint.is_none() && self.tools.is_none()),
            "ignore_eos",
            "a completion with a grammar or tools ends with it",
        )?;
        require(
            self.tools.is_none() || self.constraint.is_none(),
            "tools",
            "they cannot be combined with another form of the answer",
        )?;
        if let Some(tools) = &self.tools {
            tools.check()?;
        }
        if let Some(constraint) = &self.constraint {
            constraint.check()?;
        }
        let top = self.top_logprobs.unwrap_or(0);
        require(
            top <= TOP_LOGPROBS_MAX,
            "top_logprobs",
            "it must be between 0 and 20",
        )
    }
}

impl ChatRequest {
    /// Refuses biases of tokens that the model does not have.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`].
    pub fn check_biases(&self, vocab_size: usize) -> Result<(), EngineError> {
        let mut tokens = self.sampling.logit_bias.keys();
        match tokens.find(|&&token| token as usize >= vocab_size) {
            None => Ok(()),
            Some(token) => Err(EngineError::InvalidRequest {
                param: "logit_bias",
                reason: format!("token {token} is not in the vocabulary of {vocab_size}"),
            }),
        }
    }
}

/// Images stand in the user's messages, between two characters, in their order.
fn check_images(messages: &[ChatMessage]) -> Result<(), EngineError> {
    let images = || messages.iter().flat_map(|message| &message.images);
    require(
        images().count() <= IMAGES_MAX,
        "messages",
        "too many images",
    )?;
    let largest = images().map(|image| image.data.len()).max();
    require(
        largest.unwrap_or(0) <= IMAGE_BYTES_MAX,
        "messages",
        "an image is too large",
    )?;
    let is_placed = |message: &ChatMessage| {
        let places: Vec<usize> = message.images.iter().map(|image| image.at).collect();
        let is_between = |at: &usize| message.content.is_char_boundary(*at);
        places.is_sorted() && places.iter().all(is_between)
    };
    require(
        messages.iter().all(is_placed),
        "messages",
        "an image stands where the text has no place for it",
    )?;
    let is_asked = |m: &ChatMessage| m.role == Role::User || m.images.is_empty();
    require(
        messages.iter().all(is_asked),
        "messages",
        "only the user's messages may have images",
    )
}

impl BaseInfo {
    /// Refuses images where the model takes none.
    ///
    /// # Errors
    /// [`EngineError::NoImages`].
    pub fn check_images(&self, messages: &[ChatMessage]) -> Result<(), EngineError> {
        let has_images = messages.iter().any(|message| !message.images.is_empty());
        match has_images && !self.takes_images {
            true => Err(EngineError::NoImages(self.name.clone())),
            false => Ok(()),
        }
    }

    /// How many tokens a completion may have, `asked` or as many as there is room
    /// for.
    ///
    /// # Errors
    /// [`EngineError::ContextOverflow`] where there is no room.
    pub fn max_tokens(&self, prompt_tokens: u32, asked: Option<u32>) -> Result<u32, EngineError> {
        let context_length = self.context_length;
        let room = context_length.saturating_sub(prompt_tokens);
        let max_tokens = asked.unwrap_or(room.max(1));
        if max_tokens > room {
            return Err(EngineError::ContextOverflow {
                prompt_tokens,
                max_tokens,
                context_length,
            });
        }
        Ok(max_tokens)
    }
}
