//! `flywheel rollout`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use ids::{AdapterDigest, BasisPoints, ModelName};
use openapi::{AliasCard, RolloutAbort, RolloutList, RolloutPut, RolloutResource};

use super::CliError;
use super::client::{Based, Client};
use super::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows all rollouts, or one.
    Show {
        /// The public model name.
        model: Option<String>,
    },
    /// Sets the canary, its share, or the stable version.
    Set(SetArgs),
    /// Makes the canary stable.
    Promote {
        /// The public model name.
        model: String,
    },
    /// Moves everyone to stable.
    Abort {
        /// The public model name.
        model: String,
        /// Why; goes into the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Restores what was stable before the last promotion.
    Rollback {
        /// The public model name.
        model: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The public model name.
    model: String,
    /// The version on trial: a digest or an alias.
    #[arg(long)]
    canary: Option<String>,
    /// The canary's share, for example 5 or 0.25.
    #[arg(long, conflicts_with = "basis_points")]
    percent: Option<f64>,
    /// The canary's share in ten-thousandths.
    #[arg(long)]
    basis_points: Option<u32>,
    /// The stable version: a digest, an alias, or `base`.
    #[arg(long)]
    stable: Option<String>,
    /// The revision that the change is based on; by default the present one.
    #[arg(long)]
    revision: Option<u64>,
}

pub(super) async fn run(
    command: Command,
    client: &Client,
    output: Output,
) -> Result<ExitCode, CliError> {
    let rollouts = match command {
        Command::Show { model: None } => {
            let list: RolloutList = client.get("/admin/v1/rollouts").await?;
            list.data
        }
        Command::Show { model: Some(model) } => vec![client.get(&path(&model)?).await?],
        Command::Set(args) => vec![set(client, args).await?],
        Command::Promote { model } => vec![act(client, &model, "promote").await?],
        Command::Rollback { model } => vec![act(client, &model, "rollback").await?],
        Command::Abort { model, reason } => {
            let path = format!("{}/abort", path(&model)?);
            vec![client.post(&path, &RolloutAbort { reason }).await?]
        }
    };
    let head = [
        "model",
        "status",
        "stable",
        "canary",
        "share",
        "revision",
        "aborted because",
    ];
    output.rows(&rollouts, &head, row)?;
    Ok(ExitCode::SUCCESS)
}

fn row(rollout: &RolloutResource) -> Vec<String> {
    let short = |digest: Option<AdapterDigest>, none: &str| {
        digest.map_or_else(|| none.to_owned(), |digest| digest.short())
    };
    vec![
        rollout.id.to_string(),
        format!("{:?}", rollout.status).to_lowercase(),
        short(rollout.stable, "base"),
        short(rollout.canary, ""),
        rollout.basis_points.to_string(),
        rollout.revision.to_string(),
        rollout.abort_reason.clone().unwrap_or_default(),
    ]
}

fn path(model: &str) -> Result<String, CliError> {
    let model = ModelName::new(model).map_err(|error| CliError::Argument(error.to_string()))?;
    Ok(format!("/admin/v1/rollouts/{model}"))
}

async fn act(client: &Client, model: &str, action: &str) -> Result<RolloutResource, CliError> {
    client
        .post(
            &format!("{}/{action}", path(model)?),
            &serde_json::json!({}),
        )
        .await
}

/// The version that a digest or an alias names.
pub(super) async fn digest(client: &Client, name: &str) -> Result<AdapterDigest, CliError> {
    if let Ok(digest) = name.parse() {
        return Ok(digest);
    }
    let card: AliasCard = client.get(&format!("/admin/v1/aliases/{name}")).await?;
    Ok(card.digest)
}

fn share(args: &SetArgs) -> Result<Option<BasisPoints>, CliError> {
    let points = match args.percent {
        None => args.basis_points,
        Some(percent) if (0.0..=100.0).contains(&percent) =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 10000 after the check"
            )]
            Some((percent * 100.0).round() as u32)
        }
        Some(percent) => {
            return Err(CliError::Argument(format!(
                "{percent} is no percentage from 0 to 100"
            )));
        }
    };
    let points = points.map(BasisPoints::new).transpose();
    points.map_err(|error| CliError::Argument(error.to_string()))
}

async fn set(client: &Client, args: SetArgs) -> Result<RolloutResource, CliError> {
    let path = path(&args.model)?;
    let basis_points = share(&args)?;
    let canary = match &args.canary {
        None => None,
        Some(name) => Some(digest(client, name).await?),
    };
    let stable = match args.stable.as_deref() {
        None => None,
        Some("base") => Some(None),
        Some(name) => Some(Some(digest(client, name).await?)),
    };
    let based = match args.revision {
        Some(revision) => Based::On(revision),
        None => match client.get::<RolloutResource>(&path).await {
            Ok(current) => Based::On(current.revision.0),
            Err(CliError::Refused { status: 404, .. }) => Based::OnNothing,
            Err(error) => return Err(error),
        },
    };
    let body = RolloutPut {
        stable,
        canary,
        basis_points,
        ..RolloutPut::default()
    };
    client.put(&path, &body, Some(based)).await
}
