//! A real Redis server for one test.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{RedisAddress, StoreUrl};

/// How long a server may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to say who it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A port may be taken by another process before the server has it.
const START_TRIES: u32 = 5;

/// A Redis server of its own, in a folder of its own, killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    program: PathBuf,
    settings: Vec<String>,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl RedisServer {
    /// Starts Debian's `redis-server` with `appendonly yes` and this
    /// `appendfsync`.
    ///
    /// # Errors
    /// Where it is not installed or does not come up.
    pub fn start(appendfsync: &str) -> io::Result<Self> {
        let settings = ["--appendonly", "yes", "--appendfsync", appendfsync];
        Self::start_with(Path::new("redis-server"), &settings)
    }

    /// Starts the server `program` with these settings.
    ///
    /// # Errors
    /// Where it is not installed or does not come up.
    pub fn start_with(program: &Path, settings: &[&str]) -> io::Result<Self> {
        let folder = TempDir::new()?;
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut last = io::Error::other("not tried");
        for _ in 0..START_TRIES {
            let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            match spawn(program, &settings, folder.path(), port) {
                Ok(child) => {
                    return Ok(Self {
                        program: program.to_owned(),
                        settings,
                        folder,
                        port,
                        child,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> StoreUrl {
        StoreUrl::Redis(RedisAddress {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            db: 0,
            tls: false,
        })
    }

    /// The same as text, for command lines.
    #[must_use]
    pub fn url_text(&self) -> String {
        self.url().to_string()
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server as a crash does (SIGKILL).
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Puts `after` in the place of the setting `before`, from the next start on.
    pub fn change_setting(&mut self, before: &str, after: &str) {
        for setting in self
            .settings
            .iter_mut()
            .filter(|setting| *setting == before)
        {
            after.clone_into(setting);
        }
    }

    /// Starts it again, on the same port and files.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.child = spawn(&self.program, &self.settings, self.folder.path(), self.port)?;
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn spawn(program: &Path, settings: &[String], folder: &Path, port: u16) -> io::Result<Child> {
    let spawned = Command::new(program)
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--daemonize",
            "no",
        ])
        .arg("--dir")
        .arg(folder)
        .args(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = spawned.map_err(|error| {
        let message = format!(
            "{} cannot be started ({error}): run `make deps`",
            program.display()
        );
        io::Error::new(error.kind(), message)
    })?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !answers(port, child.id()) {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!(
                "{} ended with {status}",
                program.display()
            )));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other(format!(
                "{} did not come up",
                program.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

/// Whether the server on `port` is the process `pid`, and not one that took
/// the port first.
fn answers(port: u16, pid: u32) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(b"INFO server\r\nQUIT\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| {
        text.lines()
            .any(|line| line.trim() == format!("process_id:{pid}"))
    })
}
