//! `flywheel serve`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{CliError, ServeArgs};
use crate::config::{Config, Overrides};
use crate::server;

/// Structured logs on standard error: text for people, JSON for machines.
/// `FLYWHEEL_LOG` filters them.
fn log() {
    let filter = EnvFilter::try_from_env("FLYWHEEL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init();
    }
}

pub(super) async fn run(args: ServeArgs) -> Result<ExitCode, CliError> {
    let overrides = Overrides {
        config: args.config,
        model: args.model,
        listen: args.listen,
        data: args.data,
        store: args.store,
        adapter_root: args.adapter_root,
    };
    let config = Config::resolve(overrides, |name| {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    })?;
    log();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut gateway = server::run(config).await?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    tokio::select! {
        ready = gateway.ready() => {
            if let Err(error) = ready {
                gateway.shutdown().await;
                return Err(error.into());
            }
            tracing::info!(url = gateway.url(), "ready");
        }
        () = &mut stopped => {
            gateway.shutdown().await;
            return Ok(ExitCode::SUCCESS);
        }
    }
    stopped.await;
    gateway.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
