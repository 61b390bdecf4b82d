//! An answer in one piece.

use actix_web::{HttpResponse, HttpResponseBuilder};
use engine::{ChatStream, EngineError};
use tokio::sync::oneshot;

use super::answer::{Answer, End};
use crate::errors::ApiError;

/// Collects the answer in a task of its own, so that it is recorded even where
/// the client goes away; then the task stops at its next event.
pub(super) async fn reply(
    mut response: HttpResponseBuilder,
    mut answer: Answer,
    mut stream: ChatStream,
) -> Result<HttpResponse, ApiError> {
    let (send, receive) = oneshot::channel();
    let tasks = answer.app.tasks.clone();
    tasks.spawn(async move {
        let mut send: oneshot::Sender<_> = send;
        let ended = tokio::select! {
            ended = collect(&mut answer, &mut stream) => ended,
            () = send.closed() => {
                drop(stream);
                answer.end(End::Cancelled).await;
                return;
            }
        };
        let reply = match ended {
            Ok(usage) => {
                answer.end(End::Complete(usage)).await;
                Ok(answer.completion(&usage))
            }
            Err(error) => {
                answer.end(End::of_error(&error)).await;
                Err(error)
            }
        };
        // Nobody listens where the client has gone since.
        let _ = send.send(reply);
    });
    let reply = receive.await.unwrap_or(Err(EngineError::Stopped))?;
    Ok(response.json(reply))
}

async fn collect(
    answer: &mut Answer,
    stream: &mut ChatStream,
) -> Result<engine::Usage, EngineError> {
    while let Some(event) = stream.events.recv().await {
        if let Some(usage) = answer.take(&event?) {
            return Ok(usage);
        }
    }
    Err(EngineError::Failed(
        "the engine ended a stream without saying so".to_owned(),
    ))
}
