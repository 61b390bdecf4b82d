//! The admin key: given by the environment, or made once and kept in the data
//! folder, where only this user can read it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::keys::checked;
use super::{ConfigError, KeyDigest};

/// The file in the data folder.
pub(super) const ADMIN_KEY_FILE: &str = "admin.key";
/// Random bytes in a key that was made here.
const RANDOM_BYTES: usize = 32;

/// The key of the admin routes. It is also what answer tokens are signed with,
/// through a derivation, so that they outlive a restart.
#[derive(Clone)]
pub struct AdminKey(String);

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl AdminKey {
    /// Takes a key that somebody chose.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when it is too short or not printable.
    pub fn new(text: &str) -> Result<Self, ConfigError> {
        checked("the administrator", text).map(|text| Self(text.to_owned()))
    }

    /// The key in `data`; none where there is no such file.
    ///
    /// # Errors
    /// [`ConfigError::File`] where it cannot be read.
    pub fn read(data: &Path) -> Result<Option<Self>, ConfigError> {
        let path = data.join(ADMIN_KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::new(&text).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::File { path, source }),
        }
    }

    /// The key in `data`, made now where there is none. Of two processes that
    /// make one at the same time, the first wins and the other reads it.
    ///
    /// # Errors
    /// [`ConfigError::File`] where it cannot be read or written.
    pub fn read_or_create(data: &Path) -> Result<Self, ConfigError> {
        if let Some(key) = Self::read(data)? {
            return Ok(key);
        }
        let mut bytes = [0u8; RANDOM_BYTES];
        rand::fill(&mut bytes);
        let key = Self(hex::encode(bytes));
        let path = data.join(ADMIN_KEY_FILE);
        let fail = |source| ConfigError::File {
            path: path.clone(),
            source,
        };
        let unfinished = data.join(format!(".{ADMIN_KEY_FILE}.{}", std::process::id()));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(fail)?;
        file.write_all(key.0.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        let linked = std::fs::hard_link(&unfinished, &path);
        std::fs::remove_file(&unfinished).map_err(fail)?;
        match linked {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Self::read(data)?.ok_or_else(|| fail(error))
            }
            Err(error) => Err(fail(error)),
        }
    }

    /// The key as text, for whoever sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a presented key is compared with.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        KeyDigest::of(self.0.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let data = tempfile::tempdir().unwrap();
        assert!(AdminKey::read(data.path()).unwrap().is_none());
        let first = AdminKey::read_or_create(data.path()).unwrap();
        let again = AdminKey::read_or_create(data.path()).unwrap();
        assert_eq!(first.reveal(), again.reveal());
        assert_eq!(first.reveal().len(), 2 * RANDOM_BYTES);
        let mode = std::fs::metadata(data.path().join(ADMIN_KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(data.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }
}
