//! `hf:ORG/REPO[/FILE.gguf][@REVISION]`, checked before anything is asked for:
//! its parts become parts of paths and addresses.

use std::fmt;

use crate::HubError;

const SCHEME: &str = "hf:";
/// The longest organization, repository, revision or part of a file's path.
const PART_BYTES_MAX: usize = 200;
/// The deepest folder that a file lies in.
const FILE_PARTS_MAX: usize = 8;
/// What a part may have beside letters and digits.
const PART_EXTRA: &str = "-_.";

/// A model on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// Who publishes it.
    pub org: String,
    /// Where it is.
    pub repo: String,
    /// A GGUF file, the first of several where it was split; none is the whole
    /// folder as published.
    pub file: Option<String>,
    /// A branch, tag or commit; none is the main branch.
    pub revision: Option<String>,
}

impl HubName {
    /// Reads a name; none where `text` does not begin as one and is a path.
    #[must_use]
    pub fn of(text: &str) -> Option<Result<Self, HubError>> {
        let rest = text.strip_prefix(SCHEME)?;
        Some(Self::read(rest).map_err(|problem| HubError::Name {
            name: text.chars().take(PART_BYTES_MAX).collect(),
            problem,
        }))
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (path, revision) = match text.rsplit_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let [org, repo, file @ ..] = &parts[..] else {
            return Err("an organization and a repository are needed");
        };
        if !is_part(org) || !is_part(repo) {
            return Err("the organization or the repository has an empty or a forbidden part");
        }
        if file.len() > FILE_PARTS_MAX || !file.iter().all(|part| is_part(part)) {
            return Err("the file's path has an empty or a forbidden part");
        }
        if file.last().is_some_and(|name| !name.ends_with(".gguf")) {
            return Err("the file must be a .gguf; without one the folder is taken as published");
        }
        if revision.is_some_and(|r| !r.split('/').all(is_part)) {
            return Err("the revision is no branch, tag or commit");
        }
        Ok(Self {
            org: (*org).to_owned(),
            repo: (*repo).to_owned(),
            file: (!file.is_empty()).then(|| file.join("/")),
            revision: revision.map(str::to_owned),
        })
    }
}

/// A part of a path that stays where it is put.
fn is_part(part: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || PART_EXTRA.contains(c);
    let dots_alone = part.chars().all(|c| c == '.');
    part.len() <= PART_BYTES_MAX && !dots_alone && part.chars().all(good)
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.org, self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_the_same() {
        for text in [
            "hf:org/repo",
            "hf:org/repo@v1.0",
            "hf:org/repo/m.Q4_1.gguf",
            "hf:org/repo/sub/m-00001-of-00003.gguf@refs/pr/3",
        ] {
            let name = HubName::of(text).unwrap().unwrap();
            assert_eq!(name.to_string(), text);
        }
        let name = HubName::of("hf:a/b/c/d.gguf@e").unwrap().unwrap();
        assert_eq!(name.file.as_deref(), Some("c/d.gguf"));
        assert_eq!((name.org.as_str(), name.repo.as_str()), ("a", "b"));
        assert_eq!(name.revision.as_deref(), Some("e"));
        assert!(HubName::of("models/m.gguf").is_none());
        assert!(HubName::of("HF:a/b").is_none());
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "hf:",
            "hf:org",
            "hf:org/",
            "hf:/repo/m.gguf",
            "hf:org/../m.gguf",
            "hf:org/repo/../../m.gguf",
            "hf:org/repo//m.gguf",
            "hf:org/repo/m.bin",
            "hf:org/repo/sub/",
            "hf:org/re po/m.gguf",
            "hf:org/repo/m.gguf@",
            "hf:org/repo/m.gguf@../x",
            "hf:org/repo/a/a/a/a/a/a/a/a/m.gguf",
        ] {
            let refused = matches!(HubName::of(text), Some(Err(HubError::Name { .. })));
            assert!(refused, "{text}");
        }
        let long = format!("hf:org/{}", "x".repeat(PART_BYTES_MAX + 1));
        assert!(HubName::of(&long).unwrap().is_err());
        assert!(HubName::of(&long[..long.len() - 1]).unwrap().is_ok());
    }
}
