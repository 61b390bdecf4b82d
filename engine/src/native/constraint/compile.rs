//! From a grammar to the state that a sequence begins with.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use model::ToolMarkup;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::environment::token_environment;
use super::state::{GrammarState, plain};
use crate::api::{ChatRequest, EngineError};
use crate::constraint::{Constraint, Grammar, spaced};
use crate::vocabulary::Vocabulary;

/// Grammars that are compiled at the same time.
const COMPILING_MAX: usize = 2;
/// Requests that wait for a grammar or have one compiled; more are refused.
const REQUESTS_MAX: usize = 32;
/// How long a request waits for its grammar.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(20);
/// Stack of a compiling thread: the compiler is recursive, and this is several
/// times what [`crate::GRAMMAR_NESTING_MAX`] levels take.
const COMPILE_STACK_BYTES: usize = 16 << 20;

/// What one grammar may cost. A mask may take some 10 ms of one CPU at most,
/// which is what every other stream then waits for.
fn limits() -> ParserLimits {
    ParserLimits {
        step_lexer_fuel: 100_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Compiles grammars for one model.
pub struct Grammars {
    vocabulary: Arc<dyn Vocabulary>,
    /// Made with the first grammar: the tree of all tokens takes some time.
    factory: Arc<OnceLock<Result<ParserFactory, String>>>,
    permits: Arc<Semaphore>,
    places: Semaphore,
}

impl Grammars {
    /// A compiler for the tokens of a model.
    #[must_use]
    pub fn new(vocabulary: Arc<dyn Vocabulary>) -> Self {
        Self {
            vocabulary,
            factory: Arc::default(),
            permits: Arc::new(Semaphore::new(COMPILING_MAX)),
            places: Semaphore::new(REQUESTS_MAX),
        }
    }

    /// What the answers of a request are held to, by itself or by its functions.
    ///
    /// # Errors
    /// As `compile`.
    pub async fn of_request(
        &self,
        request: &ChatRequest,
        markup: ToolMarkup,
    ) -> Result<Option<Arc<GrammarState>>, EngineError> {
        let tools = request.tools.as_ref();
        let forced = tools.and_then(|tools| tools.constraint(markup));
        match request.constraint.clone().or(forced) {
            Some(constraint) => Ok(Some(Arc::new(self.compile(constraint).await?))),
            None => Ok(None),
        }
    }

    /// The state that every sequence with this constraint begins with.
    ///
    /// A thread of its own compiles, for its stack; it is counted until it
    /// ends, so that what takes too long does not add up.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for what is wrong with the grammar,
    /// [`EngineError::QueueFull`] where too many wait.
    async fn compile(&self, constraint: Constraint) -> Result<GrammarState, EngineError> {
        constraint.check()?;
        let full = || {
            let taken = u32::try_from(REQUESTS_MAX).unwrap_or(u32::MAX);
            EngineError::QueueFull {
                waiting: taken,
                waiting_max: taken,
            }
        };
        let _place = self.places.try_acquire().map_err(|_| full())?;
        let permits = Arc::clone(&self.permits);
        let Ok(Ok(permit)) = timeout(COMPILE_TIME_MAX, permits.acquire_owned()).await else {
            return Err(full());
        };
        let (send, compiled) = oneshot::channel();
        let (vocabulary, factory) = (Arc::clone(&self.vocabulary), Arc::clone(&self.factory));
        let too_long = constraint.refused("it takes too long to compile");
        let work = move || {
            let factory = factory.get_or_init(|| make_factory(vocabulary.as_ref()));
            let state = match factory {
                Ok(factory) => compile(factory, &constraint),
                Err(reason) => Err(EngineError::Failed(reason.clone())),
            };
            // nobody listens where it took too long
            let _ = send.send(state);
            drop(permit);
        };
        std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn(work)
            .map_err(|error| EngineError::Failed(error.to_string()))?;
        match timeout(COMPILE_TIME_MAX, compiled).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) => Err(EngineError::Failed("a grammar's thread ended".to_owned())),
            Err(_) => Err(too_long),
        }
    }
}

fn make_factory(vocabulary: &dyn Vocabulary) -> Result<ParserFactory, String> {
    let environment = token_environment(vocabulary)?;
    let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

fn compile(factory: &ParserFactory, constraint: &Constraint) -> Result<GrammarState, EngineError> {
    let refused = |error: &str| constraint.refused(plain(error));
    let grammar = match &constraint.grammar {
        Grammar::JsonObject => TopLevelGrammar::from_json_schema(spaced(json!({"type": "object"}))),
        Grammar::JsonSchema(Value::Bool(true)) => {
            TopLevelGrammar::from_json_schema(spaced(json!({})))
        }
        Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(spaced(schema.clone())),
        Grammar::Regex(expression) => TopLevelGrammar::from_regex(expression),
        Grammar::Lark(source) => TopLevelGrammar::from_lark(source.clone()),
    };
    let parser = factory
        .create_parser(grammar)
        .map_err(|error| refused(&format!("{error:#}")))?;
    let mut state = GrammarState::new(Matcher::new(Ok(parser)), constraint.param);
    // Some errors only show at the first mask; it is also ready by then.
    state.prepare();
    state.allowed().map_err(|error| match error {
        EngineError::InvalidRequest { reason, .. } => constraint.refused(reason),
        other => other,
    })?;
    Ok(state)
}
