//! Names the code that a trainer is built from, in `FLYWHEEL_CODE_VERSION`: the package's
//! version and the beginning of a SHA-256 over the lock file and the sources of this crate
//! and those that it uses. It needs no repository, and changes with the code alone.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks")]

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() -> Result<()> {
    let own = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = own.parent().ok_or_else(|| Error::other("no workspace"))?;
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock")];
    for name in crates(root, &own)? {
        let folder = root.join(name);
        files.push(folder.join("Cargo.toml"));
        for part in ["src", "evaluation", "build.rs"] {
            collect(&folder.join(part), &mut files)?;
        }
    }
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        println!("cargo:rerun-if-changed={}", path.display());
        let name = path.strip_prefix(root).map_err(Error::other)?;
        for part in [name.to_string_lossy().as_bytes(), &fs::read(&path)?] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    let digest: String = hasher.finalize()[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let version = variable("CARGO_PKG_VERSION")?;
    println!("cargo:rustc-env=FLYWHEEL_CODE_VERSION={version}+{digest}");
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(Error::other)
}

/// This crate and the workspace's that it uses, by folder; `src` of them all counts.
fn crates(root: &Path, own: &Path) -> Result<Vec<String>> {
    let manifest = fs::read_to_string(own.join("Cargo.toml"))?;
    let names = manifest
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    let mut crates: Vec<String> = names
        .chain(["trainer"])
        .filter(|name| !name.is_empty() && root.join(name).join("Cargo.toml").is_file())
        .map(str::to_owned)
        .collect();
    crates.sort();
    crates.dedup();
    for name in &crates {
        // a file that is added or removed
        println!(
            "cargo:rerun-if-changed={}",
            root.join(name).join("src").display()
        );
    }
    Ok(crates)
}

/// The files of a folder and of those in it, or the file.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
    } else if path.is_dir() {
        for entry in fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    }
    Ok(())
}
