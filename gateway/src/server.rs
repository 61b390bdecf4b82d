//! Starting and stopping a gateway.
//!
//! Order: stores, then the socket, then the model behind it, so that the health
//! routes answer while it loads. At the end: no new requests, running streams
//! finish within a bound, then the engine.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App as Application, HttpServer};
use adapter_store::{AdapterStore, AdapterStoreError};
use control::ControlError;
use engine::{Engine, EngineError};
use feedback::FeedbackError;
use feedback::token::{Signer, TokenError};
use fine_tuning::{Files, FineTuningError, History, Jobs, Place};
use ids::{Clock, Sha256Digest, SystemClock};
use store::{Backend, StoreError, StoreOptions, StoreUrl, Synchronous};
use tokio::sync::watch;

use crate::app::{ADMIN, App, Tuning};
use crate::auth::KeyRing;
use crate::config::{AdminKey, Config, ConfigError};
use crate::engines;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use crate::{load, middleware, routes};

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send its head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Threads that speak HTTP; the engine has its own.
const WORKERS: usize = 2;
/// The most connections of one thread.
const CONNECTIONS_MAX: usize = 4096;
/// The folder of the adapter store in the data folder.
const ADAPTERS_FOLDER: &str = "adapters";
/// The folder of training files in the data folder.
const TUNING_FOLDER: &str = "fine-tuning";

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The durable store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control state in it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The feedback in it.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    /// The adapter store.
    #[error(transparent)]
    Adapters(#[from] AdapterStoreError),
    /// The training files.
    #[error(transparent)]
    FineTuning(#[from] FineTuningError),
    /// The signing key.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The address, or the data folder.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The model.
    #[error("the model cannot be served: {0}")]
    Model(String),
}

/// A running gateway. Dropping it leaves it running; see [`Gateway::shutdown`].
pub struct Gateway {
    address: SocketAddr,
    admin_key: AdminKey,
    app: Data<App>,
    server: ServerHandle,
    loaded: watch::Receiver<load::Progress>,
    engine: Arc<OnceLock<Arc<dyn Engine>>>,
    stop: watch::Sender<bool>,
}

/// Starts a gateway on the present tokio runtime. Returns once it listens; the
/// model is loaded behind it, see [`Gateway::ready`].
///
/// # Errors
/// Whatever keeps it from starting, before anything listens.
pub async fn run(config: Config) -> Result<Gateway, StartError> {
    config.check()?;
    engines::check(&config)?;
    let io = |what: String| move |source| StartError::Io { what, source };
    let data = config.data.display().to_string();
    std::fs::create_dir_all(&config.data).map_err(io(format!("the data folder {data}")))?;
    let admin_key = match config.admin_key.clone() {
        Some(key) => key,
        None => AdminKey::read_or_create(&config.data)?,
    };
    let app = Data::new(app(config, &admin_key).await?);
    let listen = app.config.listen;
    let listener = TcpListener::bind(listen).map_err(io(format!("listening on {listen}")))?;
    let address = listener
        .local_addr()
        .map_err(io("the listening address".to_owned()))?;
    let server = serve(app.clone(), listener).map_err(io("starting the server".to_owned()))?;
    let handle = server.handle();
    tokio::spawn(server);
    tracing::info!(%address, store = %app.config.store, "listening");
    let engine = Arc::new(OnceLock::new());
    let (stop, stopped) = watch::channel(false);
    let loaded = load::start(app.clone(), engine.clone(), stopped);
    Ok(Gateway {
        address,
        admin_key,
        app,
        server: handle,
        loaded,
        engine,
        stop,
    })
}

async fn app(config: Config, admin_key: &AdminKey) -> Result<App, StartError> {
    let url = StoreUrl::parse(&config.store, &config.data)?;
    let options = StoreOptions {
        required: config.durability,
        synchronous: Synchronous::for_promise(config.durability),
        redis: config.redis.clone(),
        ..StoreOptions::default()
    };
    let store = Backend::open(&url, &options).await?;
    tracing::info!(store = %url, durability = %store.durability(), "store opened");
    let metrics = Arc::new(Metrics::new()?);
    metrics.set_durability(store.durability());
    // Derived, so that knowing a token's key does not give the admin key.
    let secret = admin_key.reveal().as_bytes();
    let key = Sha256Digest::of_parts(&[("purpose", b"feedback-token"), ("secret", secret)]);
    let control = control::open(&store).await?;
    let place = Place::local(&config.data.join(TUNING_FOLDER))?;
    let tuning = Tuning {
        files: Files::new(place.clone()),
        jobs: Jobs::new(Arc::clone(&control), ADMIN),
        history: History::new(place),
    };
    Ok(App {
        keys: KeyRing::new(&config.keys, admin_key.digest()),
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        control,
        tuning,
        feedback: feedback::open(&store).await?,
        adapters: AdapterStore::local(&config.data.join(ADAPTERS_FOLDER))?,
        signer: Signer::new(key.as_bytes())?,
        tasks: Tasks::new(),
        serving: OnceLock::new(),
        draining: AtomicBool::new(false),
        metrics,
        config,
    })
}

fn serve(app: Data<App>, listener: TcpListener) -> std::io::Result<Server> {
    let drain = app.config.drain.as_secs();
    let factory = move || {
        Application::new()
            .app_data(app.clone())
            .wrap(from_fn(middleware::around))
            .configure(routes::configure)
    };
    let server = HttpServer::new(factory)
        .workers(WORKERS)
        .max_connections(CONNECTIONS_MAX)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(HEAD_LIMIT)
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .shutdown_timeout(drain)
        .disable_signals();
    Ok(server.listen(listener)?.run())
}

impl Gateway {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its root, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key of its admin routes.
    #[must_use]
    pub fn admin_key(&self) -> &AdminKey {
        &self.admin_key
    }

    /// Waits until the model can answer.
    ///
    /// # Errors
    /// [`StartError::Model`] when it never will.
    pub async fn ready(&mut self) -> Result<(), StartError> {
        let ended = self
            .loaded
            .wait_for(|progress| !matches!(progress, load::Progress::Loading));
        match ended.await.as_deref() {
            Ok(load::Progress::Ready) => Ok(()),
            Ok(load::Progress::Failed(reason)) => Err(StartError::Model(reason.clone())),
            _ => Err(StartError::Model(EngineError::Stopped.to_string())),
        }
    }

    /// Takes no new requests, lets the running ones finish within the
    /// configured bound, and stops. False when some were cut off.
    pub async fn shutdown(self) -> bool {
        self.app.draining.store(true, Ordering::Release);
        // Nothing waits on it once all its receivers are gone.
        self.stop.send_replace(true);
        tracing::info!("draining");
        let limit = self.app.config.drain;
        let drained = self.app.tasks.drained(limit).await;
        self.server.stop(drained).await;
        if let Some(engine) = self.engine.get() {
            engine.shutdown().await;
        }
        tracing::info!(drained, "stopped");
        drained
    }
}
