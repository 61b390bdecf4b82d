//! What a candidate has to beat: the version that everyone gets now.

use adapter_store::{AdapterFiles, AdapterStore};
use control::ControlStore;
use ids::{AdapterDigest, BaseDigest, ModelName};

use crate::TrainerError;

/// The served version of a public model name.
#[derive(Debug, Clone)]
pub(crate) struct Incumbent {
    /// The public model name, where one serves this base.
    pub(crate) model_name: Option<ModelName>,
    /// Its stable version; none is the bare base.
    pub(crate) digest: Option<AdapterDigest>,
    /// The stable version's files.
    pub(crate) files: Option<AdapterFiles>,
}

impl Incumbent {
    /// Reads the rollout of `model_name`, or the only one of this base.
    pub(crate) async fn read(
        control: &dyn ControlStore,
        adapters: &AdapterStore,
        base: &BaseDigest,
        model_name: Option<&ModelName>,
    ) -> Result<Self, TrainerError> {
        let rollouts = control::rollouts::list(control).await?;
        let mut of_base = rollouts
            .into_iter()
            .map(|(_, rollout)| rollout)
            .filter(|rollout| rollout.base == *base)
            .filter(|rollout| model_name.is_none_or(|name| rollout.id == *name));
        let (first, second) = (of_base.next(), of_base.next());
        if let (Some(first), Some(second)) = (&first, &second) {
            let problem = format!("{} and {} both serve this base", first.id, second.id);
            return Err(TrainerError::Config {
                key: "model_name",
                problem,
            });
        }
        let digest = first.as_ref().and_then(|rollout| rollout.stable);
        let files = match digest {
            Some(digest) => Some(adapters.get(&digest).await?.files),
            None => None,
        };
        let model_name = first
            .map(|rollout| rollout.id)
            .or_else(|| model_name.cloned());
        Ok(Self {
            model_name,
            digest,
            files,
        })
    }
}
