//! A file on its way: it grows beside its place in the cache, under a lock, and
//! takes its place whole and checked, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::HubError;

const BUFFER_BYTES: usize = 1 << 20;

/// The beginning of a file.
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    /// Where it belongs.
    place: PathBuf,
    have: u64,
}

impl Partial {
    /// Opens what was left of an earlier transfer, or begins one; none if the
    /// file is there. Waits for another process that fetches the same.
    pub(crate) fn open(place: &Path) -> Result<Option<Self>, HubError> {
        let mut path = place.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(io(folder))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(io(&path))?;
        file.lock().map_err(io(&path))?;
        if place.exists() {
            return Ok(None);
        }
        let have = file.seek(SeekFrom::End(0)).map_err(io(&path))?;
        let place = place.to_owned();
        Ok(Some(Self {
            file,
            path,
            place,
            have,
        }))
    }

    /// Bytes that are there.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Begins again.
    pub(crate) fn clear(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(io(&self.path))?;
        self.file.rewind().map_err(io(&self.path))?;
        self.have = 0;
        Ok(())
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(io(&self.path))?;
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Whether the SHA-256 of all bytes is this.
    pub(crate) fn has_digest(&mut self, hex: &str) -> Result<bool, HubError> {
        self.file.rewind().map_err(io(&self.path))?;
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
        loop {
            let read = self.file.read(&mut buffer).map_err(io(&self.path))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
        }
        Ok(hex::encode(digest.finalize()) == hex.to_ascii_lowercase())
    }

    /// Puts the whole file into its place.
    pub(crate) fn finish(self) -> Result<(), HubError> {
        self.file.sync_all().map_err(io(&self.path))?;
        fs::rename(&self.path, &self.place).map_err(io(&self.place))
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { path, source }
}
