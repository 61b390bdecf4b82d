//! The gate for an adapter that was not trained here: a PEFT folder against
//! the incumbent, on what the last run held out and on the replay set.

use std::path::Path;

use adapter_store::folder::read_peft_folder;
use adapter_store::{AdapterFiles, AdapterStoreError};
use feedback::pairs::PreferencePair;
use ids::BaseDigest;

use crate::TrainerError;
use crate::evaluate::{Subject, verdict};
use crate::incumbent::Incumbent;
use crate::pipeline::write_report;
use crate::report::{Decision, Report};
use crate::services::Services;

/// Evaluates the adapter in `folder`. `Published` in the report means that it
/// might be; nothing is stored.
///
/// # Errors
/// When the adapter is unusable, or nothing can be measured.
pub async fn judge(services: &Services, folder: &Path) -> Result<Report, TrainerError> {
    let folder = folder.canonicalize().map_err(TrainerError::file(folder))?;
    let (Some(root), Some(name)) = (folder.parent(), folder.file_name().and_then(|n| n.to_str()))
    else {
        let problem = format!("{} is no folder with a name", folder.display());
        return Err(TrainerError::Config {
            key: "adapter",
            problem,
        });
    };
    let files = read_peft_folder(root, name)?;
    let incumbent = Incumbent::read(
        &*services.control,
        &services.adapters,
        &services.base.digest,
        services.config.model_name.as_ref(),
    )
    .await?;
    let held_out = read_held_out(&services.held_out_file())?;
    let subject = Subject {
        incumbent: incumbent.files.as_ref(),
        candidate: &files,
        held_out: &held_out,
        prompts: &[],
    };
    let mut evaluation = services.assessor().assess(&subject).await?;
    evaluation.foreign_base = foreign_base(services, &files).await?;
    let gate = services.config.gate.clone();
    let refusals = verdict(&evaluation, &gate);
    let now = services.clock.now();
    let report = Report {
        run_id: format!("evaluate-{}-{}", files.digest().short(), now.0),
        at: now,
        decision: if refusals.is_empty() {
            Decision::Published
        } else {
            Decision::Refused
        },
        candidate: files.digest(),
        incumbent: incumbent.digest,
        base: services.base.digest,
        reasons: refusals.iter().map(ToString::to_string).collect(),
        refusals,
        evaluation,
        gate,
        training: None,
    };
    let folder = services.journal.root().join("runs").join(&report.run_id);
    std::fs::create_dir_all(&folder).map_err(TrainerError::file(&folder))?;
    write_report(&folder, &report)?;
    Ok(report)
}

/// The base that the adapter was made for, where the store knows it to be
/// another than the served one; a folder alone does not tell.
async fn foreign_base(
    services: &Services,
    files: &AdapterFiles,
) -> Result<Option<BaseDigest>, TrainerError> {
    match services.adapters.manifest(&files.digest()).await {
        Ok(manifest) => Ok(manifest
            .lineage
            .base
            .filter(|base| *base != services.base.digest)),
        Err(AdapterStoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_held_out(path: &Path) -> Result<Vec<PreferencePair>, TrainerError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainerError::file(path)(error)),
    };
    serde_json::from_slice(&bytes).map_err(|error| TrainerError::Content {
        path: path.to_owned(),
        line: error.line(),
        problem: error.to_string(),
    })
}
