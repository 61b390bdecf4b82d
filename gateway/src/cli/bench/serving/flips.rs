//! An alias moves from one resident version to another: from the written document
//! to the first request that follows it.

use std::sync::Arc;
use std::time::Instant;

use adapter_store::AdapterStore;
use control::{AuditEntry, ControlStore, Expected};
use ids::{AdapterDigest, AliasName, Clock, Revision, SystemClock};
use store::{Backend, StoreOptions, StoreUrl};

use super::{Stage, loads};
use crate::cli::CliError;
use crate::cli::bench::failed;
use crate::cli::bench::figure::{Figure, Target, milliseconds, quantile};
use crate::metrics::Metrics;
use crate::routing::{Followed, Memory, Residency, Router, Synchronizer, Table, Wish};

/// How often the alias moves.
const FLIPS: usize = 400;
/// The alias that moves.
const MOVING: &str = "moving";
/// Other aliases beside it.
const BESIDE: [usize; 2] = [0, 1000];

/// The parts of a gateway that a flip goes through.
struct Routes {
    control: Arc<dyn ControlStore>,
    sync: Synchronizer,
    router: Arc<Router>,
}

pub(super) async fn run(stage: &mut Stage<'_>) -> Result<(), CliError> {
    let store = AdapterStore::local(&stage.scratch.join("flips")).map_err(failed)?;
    let mut versions = Vec::new();
    for seed in 0..2 {
        let version = stage.native.synthetic_adapter(stage.common.rank, seed);
        versions.push(loads::put(&store, &version.map_err(failed)?).await?);
    }
    let routes = routes(stage, store).await?;
    for (done, count) in BESIDE.into_iter().enumerate() {
        let from = if done == 0 { 0 } else { BESIDE[done - 1] };
        for number in from..count {
            set(&routes, &format!("beside-{number}"), versions[0]).await?;
        }
        for version in &versions {
            let residency = &routes.sync.residency;
            residency.make_resident(version).await.map_err(failed)?;
        }
        routes.sync.refresh().await.map_err(failed)?;
        flips(stage, &routes, &versions, count).await?;
    }
    stage.unload_all().await
}

async fn routes(stage: &Stage<'_>, store: AdapterStore) -> Result<Routes, CliError> {
    let url = StoreUrl::parse("embedded", &stage.scratch.join("flips-data")).map_err(failed)?;
    std::fs::create_dir_all(stage.scratch.join("flips-data"))?;
    let backend = Backend::open(&url, &StoreOptions::default()).await;
    let control = control::open(&backend.map_err(failed)?).await;
    let control = control.map_err(failed)?;
    let metrics = Arc::new(Metrics::new().map_err(failed)?);
    let engine = Arc::clone(&stage.engine);
    let residency = Residency::new(
        store,
        Arc::clone(&engine),
        Arc::clone(&metrics),
        loads::WAIT_MAX,
    );
    let table = Table::bare(engine.base().clone(), &[], SystemClock.now());
    let router = Arc::new(Router::new(table));
    let sync = Synchronizer {
        control: Arc::clone(&control),
        residency: Arc::new(residency),
        engine,
        router: Arc::clone(&router),
        metrics,
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        models: Vec::new(),
        memory: tokio::sync::Mutex::new(Memory::default()),
        followed: std::sync::Mutex::new(Followed::default()),
    };
    Ok(Routes {
        control,
        sync,
        router,
    })
}

async fn set(
    routes: &Routes,
    name: &str,
    version: AdapterDigest,
) -> Result<(AliasName, Revision), CliError> {
    let audit = AuditEntry {
        actor: "bench".to_owned(),
        action: "alias.set".to_owned(),
        at: SystemClock.now(),
    };
    let name = AliasName::new(name).map_err(failed)?;
    let control = routes.control.as_ref();
    let set = control::aliases::set(control, &name, version, Expected::Any, audit).await;
    Ok((name, set.map_err(failed)?))
}

/// Where a request goes that names the alias.
fn led_by(routes: &Routes) -> Option<AdapterDigest> {
    let wish = Wish {
        model: MOVING,
        adapter: None,
        unit: None,
        draw: 0,
    };
    let route = routes.router.resolve(&wish);
    route.ok().and_then(|route| route.adapter)
}

async fn flips(
    stage: &mut Stage<'_>,
    routes: &Routes,
    versions: &[AdapterDigest],
    beside: usize,
) -> Result<(), CliError> {
    let (mut written, mut flipped, mut wrong) = (Vec::new(), Vec::new(), 0);
    for version in versions.iter().copied().cycle().take(FLIPS) {
        let from = Instant::now();
        let (name, revision) = set(routes, MOVING, version).await?;
        let acknowledged = Instant::now();
        routes.sync.follow(&name, revision, version);
        let led_to = led_by(routes);
        flipped.push(milliseconds(acknowledged.elapsed()));
        written.push(milliseconds(acknowledged - from));
        wrong += usize::from(led_to != Some(version));
        // as a gateway does by and by
        routes.sync.refresh().await.map_err(failed)?;
        wrong += usize::from(led_by(routes) != Some(version));
    }
    let name = |what: &str| format!("alias flip beside {beside} aliases: {what}");
    stage.figures.extend([
        Figure::new(
            name("durable write, p99"),
            quantile(&mut written, 0.99),
            "ms",
        ),
        Figure::new(
            name("until followed, p50"),
            quantile(&mut flipped, 0.5),
            "ms",
        ),
        Figure::new(
            name("until followed, p99"),
            quantile(&mut flipped, 0.99),
            "ms",
        )
        .should(Target::AtMost(1.0)),
        Figure::new(name("followed wrongly"), wrong as f64, "").should(Target::AtMost(0.0)),
    ]);
    Ok(())
}
