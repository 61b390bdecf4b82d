//! How often work was begun and neither ended nor failed nor stopped: the
//! process died. Work of which every process dies must not be begun for ever.

use std::path::Path;

use crate::TrainerError;
use crate::journal::replace;

/// The count's name in the work's folder.
const FILE_NAME: &str = "begun";
/// Work that was begun this often without an end is given up.
const BEGINNINGS_MAX: u32 = 10;

/// Counts a beginning; false where there were too many.
///
/// # Errors
/// [`TrainerError::File`].
pub(crate) fn begin(folder: &Path) -> Result<bool, TrainerError> {
    let path = folder.join(FILE_NAME);
    let before = std::fs::read_to_string(&path).ok();
    let before = before.and_then(|text| text.trim().parse().ok());
    let begun: u32 = before.map_or(1, |before: u32| before.saturating_add(1));
    if begun > BEGINNINGS_MAX {
        return Ok(false);
    }
    replace(&path, begun.to_string().as_bytes())?;
    Ok(true)
}

/// The work came to an end of some kind.
///
/// # Errors
/// [`TrainerError::File`].
pub(crate) fn ended(folder: &Path) -> Result<(), TrainerError> {
    match std::fs::remove_file(folder.join(FILE_NAME)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainerError::file(folder)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn work_that_never_ends_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let begins = || (0..20).filter(|_| begin(folder.path()).unwrap()).count();
        assert_eq!(begins(), 10);
        // an end makes good all that was before
        ended(folder.path()).unwrap();
        ended(folder.path()).unwrap();
        assert_eq!(begins(), 10);
    }
}
