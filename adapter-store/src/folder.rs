//! Reads a foreign PEFT folder beneath one root, and nothing outside of it.
//!
//! Each step of the path is opened relative to the one before without
//! following links, so that a link swapped in between a check and a use leads
//! nowhere.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::AdapterStoreError;
use crate::store::{
    AdapterFiles, CONFIG_BYTES_MAX, CONFIG_NAME, SAFETENSORS_BYTES_MAX, SAFETENSORS_NAME,
};

/// The longest path.
pub const PATH_BYTES_MAX: usize = 1024;
/// The name that PEFT gives to pickled weights.
const PICKLE_NAME: &str = "adapter_model.bin";

/// Reads the two files of the folder `path`, which is relative to `root` or an
/// absolute path beneath it.
///
/// # Errors
/// [`AdapterStoreError::PathInvalid`] for a path that leaves the root, goes
/// through a link or names no folder, [`AdapterStoreError::PathNotFound`] for
/// one that does not exist, [`AdapterStoreError::Pickle`] for pickled weights,
/// and [`AdapterStoreError::Size`] for a file over its limit.
pub fn read_peft_folder(root: &Path, path: &str) -> Result<AdapterFiles, AdapterStoreError> {
    let names = steps(root, path)?;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The root is the operator's: it may be a link itself.
    let mut folder = openat(CWD, root, directory, Mode::empty()).map_err(std::io::Error::from)?;
    for name in names {
        folder = open_beneath(folder.as_fd(), name, directory, path)?;
    }
    let config_json = read_file(&folder, CONFIG_NAME, CONFIG_BYTES_MAX, path)?;
    let safetensors = match read_file(&folder, SAFETENSORS_NAME, SAFETENSORS_BYTES_MAX, path) {
        Err(AdapterStoreError::PathNotFound(_)) if has(&folder, PICKLE_NAME) => {
            return Err(AdapterStoreError::Pickle(PICKLE_NAME));
        }
        read => read?,
    };
    Ok(AdapterFiles::new(config_json, safetensors))
}

/// The folder names from the root to the path.
fn steps<'a>(root: &Path, path: &'a str) -> Result<Vec<&'a str>, AdapterStoreError> {
    use AdapterStoreError::PathInvalid;
    if path.is_empty() || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(PathInvalid(
            "it must have 1 to 1024 bytes, none of them zero",
        ));
    }
    let pickle = [".bin", ".pt", ".pth", ".pkl", ".ckpt"];
    if pickle
        .iter()
        .any(|ending| path.to_ascii_lowercase().ends_with(ending))
    {
        return Err(AdapterStoreError::Pickle("by its name"));
    }
    let path = Path::new(path);
    let relative = if path.is_absolute() {
        let real = root.canonicalize()?;
        path.strip_prefix(root)
            .or_else(|_| path.strip_prefix(&real))
            .map_err(|_| PathInvalid("it is not beneath the adapter root"))?
    } else {
        path
    };
    let mut names = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(name) => names.extend(name.to_str()),
            Component::CurDir => {}
            _ => return Err(PathInvalid("`..` is not allowed in it")),
        }
    }
    Ok(names)
}

fn open_beneath(
    folder: BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    path: &str,
) -> Result<OwnedFd, AdapterStoreError> {
    openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => AdapterStoreError::PathNotFound(path.to_owned()),
        Errno::LOOP => AdapterStoreError::PathInvalid("it goes through a symbolic link"),
        Errno::NOTDIR => AdapterStoreError::PathInvalid("it is no folder, or goes through a link"),
        Errno::NAMETOOLONG => AdapterStoreError::PathInvalid("a name in it is too long"),
        other => std::io::Error::from(other).into(),
    })
}

fn has(folder: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn read_file(
    folder: &OwnedFd,
    name: &'static str,
    max: u64,
    path: &str,
) -> Result<Vec<u8>, AdapterStoreError> {
    // Not blocking, so that a pipe in place of a file cannot hold the thread.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let shown = format!("{}/{name}", path.trim_end_matches('/'));
    let file = File::from(open_beneath(folder.as_fd(), name, flags, &shown)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(AdapterStoreError::PathInvalid(
            "what should be a file is none",
        ));
    }
    let size = |bytes| AdapterStoreError::Size { name, bytes, max };
    if metadata.len() > max {
        return Err(size(metadata.len()));
    }
    let mut content = Vec::new();
    // The file may grow while it is read.
    file.take(max + 1).read_to_end(&mut content)?;
    let bytes = content.len() as u64;
    if bytes == 0 || bytes > max {
        Err(size(bytes))
    } else {
        Ok(content)
    }
}
