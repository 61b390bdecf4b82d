//! `flywheel adapters`.

use std::process::ExitCode;

use clap::Subcommand;
use ids::{AdapterDigest, AliasName};
use openapi::{
    AdapterCard, AdapterList, AdapterLoad, AliasCard, AliasPut, LoadLoraAdapter, UnloadLoraAdapter,
};

use super::client::Client;
use super::output::Output;
use super::{CliError, rollout};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists stored and resident adapter versions.
    List,
    /// Loads a stored version by its digest, or a PEFT folder under a name.
    Load {
        /// A digest, or the alias that a folder is loaded under.
        name: String,
        /// A folder beneath the gateway's adapter root; by default the name.
        #[arg(long)]
        path: Option<String>,
        /// An alias to point at a digest as well.
        #[arg(long, conflicts_with = "path")]
        alias: Option<String>,
        /// Lets an alias that exists move to the folder's files.
        #[arg(long)]
        replace: bool,
        /// With --replace: the version that the alias must name now.
        #[arg(long, requires = "replace")]
        expect: Option<String>,
    },
    /// Removes an alias, or unloads a version that nothing names.
    Unload {
        /// An alias or a digest.
        name: String,
    },
    /// Points an alias at a version.
    Alias {
        /// The alias.
        name: String,
        /// A digest, or another alias.
        target: String,
        /// The version that the alias must name now; `none`: it must not exist.
        #[arg(long)]
        expect: Option<String>,
    },
}

pub(super) async fn run(
    command: Command,
    client: &Client,
    output: Output,
) -> Result<ExitCode, CliError> {
    match command {
        Command::List => {
            let list: AdapterList = client.get("/admin/v1/adapters").await?;
            print(&list.data, output)?;
        }
        Command::Load {
            name,
            path,
            alias,
            replace,
            expect,
        } => match stored(&name, path.is_some())? {
            Some(digest) => load_stored(client, output, digest, alias).await?,
            None => load_folder(client, output, name, path, replace, expect).await?,
        },
        Command::Unload { name } => unload(client, output, name).await?,
        Command::Alias {
            name,
            target,
            expect,
        } => {
            let digest = rollout::digest(client, &target).await?;
            let expected_digest = match expect.as_deref() {
                None => None,
                Some("none") => Some(None),
                Some(text) => Some(Some(parse(text)?)),
            };
            let body = AliasPut {
                digest,
                expected_digest,
            };
            let path = format!("/admin/v1/aliases/{}", alias_name(&name)?);
            let card: AliasCard = client.put(&path, &body, None).await?;
            output.rows(&[card], &["alias", "digest", "revision"], |card| {
                vec![
                    card.name.to_string(),
                    card.digest.to_string(),
                    card.revision.to_string(),
                ]
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse(text: &str) -> Result<AdapterDigest, CliError> {
    text.parse()
        .map_err(|error: ids::IdError| CliError::Argument(error.to_string()))
}

fn alias_name(text: &str) -> Result<AliasName, CliError> {
    AliasName::new(text).map_err(|error| CliError::Argument(error.to_string()))
}

/// The version that a name without a folder is, if it is one.
fn stored(name: &str, has_folder: bool) -> Result<Option<AdapterDigest>, CliError> {
    if has_folder || !name.starts_with("sha256:") {
        return Ok(None);
    }
    let digest = name
        .parse()
        .map_err(|error: ids::IdError| CliError::Argument(error.to_string()))?;
    Ok(Some(digest))
}

async fn load_stored(
    client: &Client,
    output: Output,
    digest: AdapterDigest,
    alias: Option<String>,
) -> Result<(), CliError> {
    let alias = alias.as_deref().map(alias_name).transpose()?;
    let body = AdapterLoad { digest, alias };
    let card: AdapterCard = client.post("/admin/v1/adapters/load", &body).await?;
    print(&[card], output)
}

async fn load_folder(
    client: &Client,
    output: Output,
    name: String,
    path: Option<String>,
    replace: bool,
    expect: Option<String>,
) -> Result<(), CliError> {
    let body = LoadLoraAdapter {
        lora_path: Some(path.unwrap_or_else(|| name.clone())),
        lora_name: Some(name),
        load_inplace: replace,
        expected_digest: expect.as_deref().map(parse).transpose()?,
    };
    output.done(&client.post_text("/v1/load_lora_adapter", &body).await?)
}

async fn unload(client: &Client, output: Output, name: String) -> Result<(), CliError> {
    if name.parse::<AdapterDigest>().is_ok() {
        client.delete(&format!("/admin/v1/adapters/{name}")).await?;
        return output.done(&format!("{name} is unloaded."));
    }
    let body = UnloadLoraAdapter {
        lora_name: Some(name),
    };
    output.done(&client.post_text("/v1/unload_lora_adapter", &body).await?)
}

fn print(cards: &[AdapterCard], output: Output) -> Result<(), CliError> {
    let head = [
        "digest",
        "aliases",
        "resident",
        "leases",
        "rank",
        "stored bytes",
        "base",
        "source",
    ];
    output.rows(cards, &head, |card| {
        let aliases: Vec<&str> = card.aliases.iter().map(AliasName::as_str).collect();
        let resident = match (card.resident, card.accepts_requests) {
            (false, _) => "no",
            (true, true) => "yes",
            (true, false) => "until its last request ends",
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        vec![
            card.digest.to_string(),
            aliases.join(", "),
            resident.to_owned(),
            card.leases.to_string(),
            number(card.rank.map(u64::from)),
            number(card.stored_bytes),
            format!("{:?}", card.base).to_lowercase(),
            card.source
                .map(|source| format!("{source:?}").to_lowercase())
                .unwrap_or_default(),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_digest_is_no_folder() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let found = stored(&digest, false).ok().flatten();
        assert_eq!(found.map(|found| found.to_string()), Some(digest));
        let refused = stored("sha256:00", false);
        assert!(matches!(refused, Err(CliError::Argument(_))));
        assert!(matches!(stored("sha256:00", true), Ok(None)));
        assert!(matches!(stored("tone", false), Ok(None)));
    }
}
