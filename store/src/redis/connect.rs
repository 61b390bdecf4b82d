//! Connections: each new one is asked what the server promises, and given up
//! where that is less than required.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, Value,
};
use tokio::runtime::Handle;

use super::promise::Promise;
use crate::url::RedisAddress;
use crate::{Durability, StoreError, StoreOptions};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take; longer than [`super::writer::WAITAOF_TIMEOUT`].
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed connect, for how long no other is tried.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Makes connections to one server.
pub(super) struct Connector {
    client: Client,
    required: Durability,
    promise: Mutex<Option<Promise>>,
    /// Raised when a connection was seen to break; older ones are replaced.
    epoch: AtomicU64,
    /// Where the connections live, whoever asks for them.
    runtime: Handle,
}

impl Connector {
    pub(super) fn new(address: &RedisAddress, options: &StoreOptions) -> Result<Self, StoreError> {
        let RedisAddress {
            host,
            port,
            db,
            tls,
        } = address.clone();
        let addr = if tls {
            // An error means that a provider was installed before.
            let _ = rustls::crypto::ring::default_provider().install_default();
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(db));
        if let Some(username) = &options.redis.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &options.redis.password {
            settings = settings.set_password(password.reveal());
        }
        Ok(Self {
            client: Client::open(addr.into_connection_info()?.set_redis_settings(settings))?,
            required: options.required,
            promise: Mutex::new(None),
            epoch: AtomicU64::new(0),
            runtime: Handle::current(),
        })
    }

    pub(super) fn durability(&self) -> Durability {
        self.promise
            .lock()
            .as_ref()
            .map_or(Durability::Unknown, |promise| promise.durability)
    }

    async fn connect(self: Arc<Self>) -> Result<Connection, StoreError> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut inner = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let promise = Promise::read(&mut inner).await?;
        let wait_aof = promise.wait_aof && self.required == Durability::Fsynced;
        // Where no fsync is asked for, none is waited for.
        let found = if promise.wait_aof && !wait_aof {
            Durability::OsBuffered
        } else {
            promise.durability
        };
        let promise = Promise {
            durability: found,
            wait_aof,
            ..promise
        };
        self.note(&promise);
        if found < self.required {
            return Err(StoreError::TooWeak {
                required: self.required,
                found,
                remedy: promise.remedy,
            });
        }
        Ok(Connection {
            inner,
            epoch,
            wait_aof,
            connector: self,
        })
    }

    /// Has all connections of `epoch` replaced before they are used again.
    fn suspect(&self, epoch: u64) {
        let _ = self
            .epoch
            .compare_exchange(epoch, epoch + 1, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn note(&self, promise: &Promise) {
        let mut known = self.promise.lock();
        if known.as_ref() != Some(promise) {
            let Promise {
                durability,
                wait_aof,
                remedy,
            } = promise;
            tracing::info!(%durability, wait_aof, remedy, "Redis connected");
            *known = Some(promise.clone());
        }
    }
}

/// A connection that was checked.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    epoch: u64,
    pub(super) wait_aof: bool,
    connector: Arc<Connector>,
}

impl Connection {
    pub(super) async fn query(&mut self, command: &Cmd) -> Result<Value, StoreError> {
        let answer = command.query_async(&mut self.inner).await;
        self.noted(answer)
    }

    pub(super) async fn query_all(
        &mut self,
        commands: &Pipeline,
    ) -> Result<Vec<redis::RedisResult<Value>>, StoreError> {
        let answers = commands.query_async(&mut self.inner).await;
        self.noted(answers)
    }

    /// A connection that broke takes the others with it: they lead to the same
    /// server, and after a restart all of them have to be checked again.
    fn noted<T>(&self, answer: redis::RedisResult<T>) -> Result<T, StoreError> {
        if answer.as_ref().is_err_and(is_lost) {
            self.connector.suspect(self.epoch);
        }
        Ok(answer?)
    }
}

/// Whether the connection cannot be used any longer.
pub(super) fn is_lost(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_timeout() || error.is_connection_dropped()
}

/// A place for one connection, which is replaced when it broke.
pub(super) struct Link {
    connector: Arc<Connector>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    failed: Option<(Instant, StoreError)>,
}

impl Link {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            state: tokio::sync::Mutex::default(),
        }
    }

    pub(super) async fn get(&self) -> Result<Connection, StoreError> {
        let mut state = self.state.lock().await;
        let epoch = self.connector.epoch.load(Ordering::SeqCst);
        if let Some(connection) = state
            .connection
            .as_ref()
            .filter(|connection| connection.epoch == epoch)
        {
            return Ok(connection.clone());
        }
        if let Some((when, error)) = &state.failed
            && when.elapsed() < RECONNECT_PAUSE
        {
            return Err(error.clone());
        }
        state.connection = None;
        let connecting = self
            .connector
            .runtime
            .spawn(Arc::clone(&self.connector).connect());
        let connected = connecting.await.unwrap_or(Err(StoreError::Stopped));
        if connected.is_err() {
            self.connector.suspect(epoch);
        }
        state.failed = connected
            .as_ref()
            .err()
            .map(|error| (Instant::now(), error.clone()));
        state.connection = connected.as_ref().ok().cloned();
        connected
    }
}
