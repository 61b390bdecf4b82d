//! Loading a stored version that is not in the page cache, alone and while
//! streams run: from the adapter store through the gateway's residency.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use adapter_store::{AdapterFiles, AdapterStore, Lineage};
use engine::AdapterPackage;
use engine::bench::streams::Running;
use ids::{AdapterDigest, Clock as _, SystemClock};

use super::{STREAMS, Stage, compare, pauses};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target, milliseconds, quantile};
use crate::metrics::Metrics;
use crate::routing::Residency;

/// Versions that are stored.
const VERSIONS: u64 = 16;
/// Tokens of a stream: more than it can have meanwhile.
const STREAM_TOKENS: u32 = 1000;
/// Pieces of text of each stream before anything is measured.
const WARM_UP: u64 = 24;
/// How long streams are watched undisturbed.
const UNDISTURBED: std::time::Duration = std::time::Duration::from_secs(2);
/// How long a load may wait for its turn; here it is always the only one.
pub(super) const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(30);
/// Loads while the streams of one round run.
const LOADS: usize = 4;

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let folder = stage.scratch.join("loads");
    let store = AdapterStore::local(&folder).map_err(failed)?;
    let mut versions = Vec::new();
    for seed in 0..VERSIONS {
        let version = stage.native.synthetic_adapter(stage.common.rank, seed);
        versions.push(put(&store, &version.map_err(failed)?).await?);
    }
    let metrics = Arc::new(Metrics::new().map_err(failed)?);
    let residency = Residency::new(store, Arc::clone(&stage.engine), metrics, WAIT_MAX);
    let mut alone = Vec::new();
    for _ in 0..stage.args.rounds {
        for version in &versions {
            alone.push(load(&residency, &folder, version).await?);
        }
        stage.unload_all().await?;
    }
    let name = |what: &str| format!("cold load of rank {}: {what}", stage.common.rank);
    let figures = [
        Figure::new(name("p50"), quantile(&mut alone, 0.5), "ms").should(Target::AtMost(50.0)),
        Figure::new(name("p99"), quantile(&mut alone, 0.99), "ms"),
    ];
    stage.figures.extend(figures);
    while_streams_run(stage, &residency, &folder, &versions).await
}

/// Stores a version.
pub(super) async fn put(
    store: &AdapterStore,
    package: &AdapterPackage,
) -> Result<AdapterDigest, CliError> {
    let files = AdapterFiles::new(package.config_json.to_vec(), package.safetensors.to_vec());
    let lineage = Lineage::imported(SystemClock.now());
    store.put(&files, &lineage).await.map_err(failed)
}

/// Loads a version whose files are only on disk; in milliseconds.
async fn load(
    residency: &Residency,
    folder: &Path,
    version: &AdapterDigest,
) -> Result<f64, CliError> {
    forget(&folder.join("files").join(version.hex()))?;
    let from = Instant::now();
    residency.make_resident(version).await.map_err(failed)?;
    Ok(milliseconds(from.elapsed()))
}

/// Has the system drop a folder's files from its page cache.
fn forget(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let file = File::open(entry?.path())?;
        // what is not written yet would stay
        file.sync_all()?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

async fn while_streams_run(
    stage: &mut Stage<'_>,
    residency: &Residency,
    folder: &Path,
    versions: &[AdapterDigest],
) -> Result<(), CliError> {
    let streams = stage.base_streams(STREAM_TOKENS).await?;
    let (mut with, mut without, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.args.rounds {
        let running = Running::start(&stage.engine, STREAMS, &streams);
        running.warmed_up(WARM_UP).await;
        let from = Instant::now();
        tokio::time::sleep(UNDISTURBED).await;
        let until = Instant::now();
        let mut spans = Vec::new();
        for version in versions.iter().take(LOADS) {
            let began = Instant::now();
            took.push(load(residency, folder, version).await?);
            spans.push((began, Instant::now()));
        }
        let told = running.stop().await;
        with.extend(pauses(&told, &spans));
        without.extend(pauses(&told, &[(from, until)]));
        stage.unload_all().await?;
    }
    let median = quantile(&mut took, 0.5);
    let name = format!("cold load beside {STREAMS} streams: p50");
    stage.figures.push(Figure::new(name, median, "ms"));
    let [p50, p99, longest] = compare("cold load", with, without, Target::AtMost(2.0));
    let longest = longest.should(Target::AtMost(2.0));
    stage.figures.extend([p50, p99, longest]);
    Ok(())
}
