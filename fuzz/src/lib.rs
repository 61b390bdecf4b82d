//! What the targets share: how one input holds several files, and a folder that
//! they are written to for readers that open paths.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest text that a target encodes.
const TEXT_BYTES_MAX: usize = 4096;

/// Cuts an input into at most `count` files: each but the last has its length
/// before it, as a little-endian u32. Lengths beyond the end mean the end.
pub fn parts(mut input: &[u8], count: usize) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while parts.len() + 1 < count {
        let Some((len, rest)) = input.split_first_chunk::<4>() else {
            break;
        };
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let (part, rest) = rest.split_at(len.min(rest.len()));
        parts.push(part);
        input = rest;
    }
    parts.push(input);
    parts
}

/// A text out of bytes, cut to what is quickly encoded.
pub fn text(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    String::from_utf8_lossy(cut).into_owned()
}

/// A golden of the main workspace's tests.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name)
}

/// A folder of this process alone, whose files are written anew for each input.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder, in memory where the machine has such a place.
    pub fn new(name: &str) -> Self {
        let shared_memory = Path::new("/dev/shm");
        let root = match shared_memory.is_dir() {
            true => shared_memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let folder = root.join(format!("flywheel-fuzz-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the scratch folder can be made");
        Self(folder)
    }

    /// Writes a file and says where it is. No reader may still have it open.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("the scratch folder can be written");
        path
    }

    /// Removes a file if it is there.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.0.join(name));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
