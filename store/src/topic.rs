//! What a change can be about, so that a watcher of rollouts is not woken by
//! every vote.

/// One kind of change that is counted and watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Aliases, rollouts and other control documents.
    Control,
    /// Votes.
    Feedback,
}

impl Topic {
    /// Every topic, in the order of its index.
    pub const ALL: [Self; 2] = [Self::Control, Self::Feedback];

    /// The name that the store keeps.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Feedback => "feedback",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Feedback => 1,
        }
    }
}
