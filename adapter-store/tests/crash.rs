//! A writer that stops at any point leaves a version absent or whole: every
//! operation fails once, before or after it took effect, and then a real
//! process is killed over and over.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adapter_store::{AdapterFiles, AdapterStore, AdapterStoreError, Lineage};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ids::UnixMillis;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Where the failing operation stops.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Before,
    After,
}

/// Lets `left` operations pass; the next one fails, and all after it.
#[derive(Debug)]
struct Failing {
    inner: Arc<InMemory>,
    left: Arc<AtomicUsize>,
    stop: Stop,
}

fn failure() -> object_store::Error {
    object_store::Error::Generic {
        store: "failing",
        source: "killed".into(),
    }
}

impl Failing {
    /// Whether this operation happens, and whether its caller hears of it.
    fn step(&self) -> (bool, bool) {
        let left = self.left.load(Ordering::SeqCst);
        if left == usize::MAX {
            return (false, false);
        }
        self.left
            .store(left.checked_sub(1).unwrap_or(usize::MAX), Ordering::SeqCst);
        match (left, self.stop) {
            (0, Stop::Before) => (false, false),
            (0, Stop::After) => (true, false),
            _ => (true, true),
        }
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &Path, what: PutPayload, how: PutOptions) -> Result<PutResult> {
        let (happens, heard) = self.step();
        let result = if happens {
            self.inner.put_opts(at, what, how).await
        } else {
            Err(failure())
        };
        if heard { result } else { Err(failure()) }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        if !self.step().1 {
            return Err(failure());
        }
        self.inner.get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        all: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (happens, heard) = self.step();
        let done = if happens {
            self.inner.delete_stream(all)
        } else {
            all
        };
        if heard {
            done
        } else {
            done.map(|_| Err(failure())).boxed()
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = self.inner.list(prefix);
        if self.step().1 {
            found
        } else {
            found.map(|_| Err(failure())).boxed()
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

fn files(seed: u32) -> AdapterFiles {
    let weights = (0..40_000_u32)
        .flat_map(|i| (i ^ seed).to_le_bytes())
        .collect::<Vec<u8>>();
    AdapterFiles::new(format!("{{\"r\": {seed}}}").into_bytes(), weights)
}

fn lineage() -> Lineage {
    Lineage::imported(UnixMillis(1))
}

/// The version is absent or whole, and a listing agrees. Says which.
async fn is_whole(store: &AdapterStore, files: &AdapterFiles, when: &str) -> bool {
    let listed = store
        .list()
        .await
        .unwrap()
        .iter()
        .any(|m| m.digest == files.digest());
    let whole = match store.get(&files.digest()).await {
        Ok(stored) => {
            assert_eq!(stored.files, *files, "{when}");
            true
        }
        Err(AdapterStoreError::NotFound(_)) => false,
        Err(error) => panic!("half a version {when}: {error}"),
    };
    assert_eq!(listed, whole, "{when}");
    whole
}

fn failing(inner: &Arc<InMemory>, operations: usize, stop: Stop) -> AdapterStore {
    let left = Arc::new(AtomicUsize::new(operations));
    AdapterStore::with(Arc::new(Failing {
        inner: inner.clone(),
        left,
        stop,
    }))
}

/// Runs `act` on a store that stops after each number of operations, checks
/// what is left, and says how many operations `act` takes in all.
async fn at_every_point(stop: Stop, stored_before: bool, deletes: bool) -> usize {
    for operations in 0..100 {
        let inner = Arc::new(InMemory::new());
        let sound = AdapterStore::with(inner.clone());
        if stored_before {
            sound.put(&files(1), &lineage()).await.unwrap();
        }
        let broken = failing(&inner, operations, stop);
        let done = if deletes {
            broken.delete(&files(1).digest()).await
        } else {
            broken.put(&files(1), &lineage()).await.map(|_| ())
        };
        let when = format!("after {operations} operations, {stop:?}, deleting: {deletes}");
        let whole = is_whole(&sound, &files(1), &when).await;
        if done.is_ok() {
            assert_eq!(whole, !deletes, "{when}: success was told");
            return operations;
        }
        sound.put(&files(1), &lineage()).await.unwrap();
        assert!(
            is_whole(&sound, &files(1), &when).await,
            "a second try failed {when}"
        );
    }
    panic!("it never ended");
}

#[tokio::test]
async fn a_put_that_stops_anywhere_leaves_no_half_version() {
    for stop in [Stop::Before, Stop::After] {
        let operations = at_every_point(stop, false, false).await;
        assert_eq!(operations, 4, "one read, two files, one manifest");
        assert_eq!(
            at_every_point(stop, true, false).await,
            3,
            "a second put only reads"
        );
    }
}

#[tokio::test]
async fn a_delete_that_stops_anywhere_leaves_no_half_version() {
    for stop in [Stop::Before, Stop::After] {
        assert!(at_every_point(stop, true, true).await >= 4);
    }
}

/// The folder that the child writes to; set only by the test below.
const FOLDER: &str = "ADAPTER_STORE_CRASH_FOLDER";

#[tokio::test]
#[ignore = "not a test of its own: what the child process of the next one does"]
async fn child_that_puts_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let store = AdapterStore::local(folder.as_ref()).unwrap();
    for seed in 0.. {
        store.put(&files(seed), &lineage()).await.unwrap();
        if seed % 3 == 2 {
            store.delete(&files(seed - 1).digest()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_process_leaves_no_half_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_that_puts_until_it_is_killed"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Odd steps, so that the kills fall on different operations.
        tokio::time::sleep(Duration::from_micros(60_000 + 7_919 * round)).await;
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child ended by itself"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let store = AdapterStore::local(folder.path()).unwrap();
        for manifest in store.list().await.unwrap() {
            store.get(&manifest.digest).await.unwrap();
            seen += 1;
        }
        for seed in 0..50 {
            is_whole(&store, &files(seed), &format!("in round {round}")).await;
        }
    }
    assert!(seen > 0, "the child never got to a commit");
}
