//! Putting, reading, listing and deleting versions in a local folder, and
//! every single corrupted byte.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use adapter_store::{
    AdapterFiles, AdapterStore, AdapterStoreError, BaseMatch, CONFIG_BYTES_MAX, Lineage,
    MANIFEST_BYTES_MAX, Source, check_base,
};
use ids::{AdapterDigest, BaseDigest, DatasetDigest, Sha256Digest, UnixMillis};

fn files(seed: u8) -> AdapterFiles {
    AdapterFiles::new(format!("{{\"r\": {seed}}}").into_bytes(), vec![seed; 300])
}

fn lineage() -> Lineage {
    Lineage {
        base: Some(BaseDigest(Sha256Digest::of(b"base"))),
        dataset: Some(DatasetDigest(Sha256Digest::of(b"dataset"))),
        parent: Some(files(99).digest()),
        evaluation: Some(serde_json::json!({"preference_accuracy": 0.95})),
        source: Source::Trained,
        ..Lineage::imported(UnixMillis(5))
    }
}

#[tokio::test]
async fn large_files_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    for size in [(2 << 20) - 1, 2 << 20, (4 << 20) + 12_345] {
        let content: Vec<u8> = (0..size).map(|i: u32| (i >> 8 ^ i) as u8).collect();
        let files = AdapterFiles::new(&b"{}"[..], content);
        let digest = store.put(&files, &lineage()).await.unwrap();
        let read = store.get_unverified(&digest).await.unwrap();
        assert!(read.files == files, "{size} bytes");
    }
}

/// All files of a store, the staged ones too.
fn on_disk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(on_disk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_version_comes_back_as_it_was_put_also_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("made/on/demand");
    let store = AdapterStore::local(&root).unwrap();
    let digest = store.put(&files(1), &lineage()).await.unwrap();
    assert_eq!(digest, files(1).digest());
    let reopened = AdapterStore::local(&root).unwrap();
    let stored = reopened.get(&digest).await.unwrap();
    assert_eq!(stored.files, files(1));
    assert_eq!(stored.manifest.lineage, lineage());
    assert_eq!(stored.manifest.byte_len(), 300 + 8);
}

#[tokio::test]
async fn putting_again_changes_nothing_and_keeps_the_first_lineage() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let digest = store.put(&files(1), &lineage()).await.unwrap();
    let before = on_disk(folder.path());
    assert_eq!(before.len(), 3);
    let again = store
        .put(&files(1), &Lineage::imported(UnixMillis(77)))
        .await
        .unwrap();
    assert_eq!(again, digest);
    assert_eq!(on_disk(folder.path()), before);
    assert_eq!(store.manifest(&digest).await.unwrap().lineage, lineage());
}

#[tokio::test]
async fn listing_is_by_age_and_deleting_removes_one_version_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    let mut digests = Vec::new();
    for seed in [3, 1, 2] {
        let lineage = Lineage {
            created: UnixMillis(i64::from(seed)),
            ..lineage()
        };
        digests.push(store.put(&files(seed), &lineage).await.unwrap());
    }
    let listed: Vec<AdapterDigest> = store
        .list()
        .await
        .unwrap()
        .iter()
        .map(|manifest| manifest.digest)
        .collect();
    assert_eq!(listed, [digests[1], digests[2], digests[0]]);
    store.delete(&digests[0]).await.unwrap();
    assert!(matches!(
        store.get(&digests[0]).await,
        Err(AdapterStoreError::NotFound(_))
    ));
    assert!(matches!(
        store.delete(&digests[0]).await,
        Err(AdapterStoreError::NotFound(_))
    ));
    assert_eq!(store.get(&digests[1]).await.unwrap().files, files(1));
    assert_eq!(on_disk(folder.path()).len(), 6);
    assert_eq!(store.put(&files(3), &lineage()).await.unwrap(), digests[0]);
    assert_eq!(store.get(&digests[0]).await.unwrap().files, files(3));
}

#[tokio::test]
async fn every_corrupted_or_missing_byte_is_detected_and_a_put_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let digest = store.put(&files(1), &lineage()).await.unwrap();
    let damaged = |read: Result<_, AdapterStoreError>| matches!(read, Err(AdapterStoreError::Damaged { digest: found, .. }) if found == digest);
    for path in on_disk(folder.path()) {
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 1;
            std::fs::write(&path, &broken).unwrap();
            assert!(
                damaged(store.get(&digest).await),
                "byte {at} of {}",
                path.display()
            );
        }
        for length in [0, whole.len() - 1, whole.len() + 1] {
            let mut broken = whole.clone();
            broken.resize(length, 0);
            std::fs::write(&path, &broken).unwrap();
            assert!(
                damaged(store.get(&digest).await),
                "length {length} of {}",
                path.display()
            );
        }
        store.put(&files(1), &lineage()).await.unwrap();
        assert_eq!(store.get(&digest).await.unwrap().files, files(1));
    }
    let files_folder = folder.path().join("files").join(digest.hex());
    std::fs::remove_dir_all(files_folder).unwrap();
    assert!(damaged(store.get(&digest).await));
    store.put(&files(1), &lineage()).await.unwrap();
    assert_eq!(store.get(&digest).await.unwrap().files, files(1));
}

#[tokio::test]
async fn one_damaged_manifest_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let bad = store.put(&files(1), &lineage()).await.unwrap();
    let good = store.put(&files(2), &lineage()).await.unwrap();
    std::fs::write(folder.path().join("manifests").join(bad.hex()), b"nonsense").unwrap();
    std::fs::write(folder.path().join("manifests/notes.txt"), b"not ours").unwrap();
    let listed = store.list().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|manifest| manifest.digest)
            .collect::<Vec<_>>(),
        [good]
    );
}

#[tokio::test]
async fn sizes_are_limited() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let limit = usize::try_from(CONFIG_BYTES_MAX).unwrap();
    let refused = |put| matches!(put, Err(AdapterStoreError::Size { .. }));
    let large = AdapterFiles::new(vec![b' '; limit + 1], vec![1]);
    assert!(refused(store.put(&large, &lineage()).await));
    assert!(refused(
        store
            .put(&AdapterFiles::new(vec![], vec![1]), &lineage())
            .await
    ));
    assert!(refused(
        store
            .put(&AdapterFiles::new(vec![1], vec![]), &lineage())
            .await
    ));
    let note = "x".repeat(usize::try_from(MANIFEST_BYTES_MAX).unwrap());
    let long = Lineage {
        evaluation: Some(note.into()),
        ..lineage()
    };
    assert!(refused(store.put(&files(1), &long).await));
    assert_eq!(
        on_disk(folder.path()),
        Vec::<PathBuf>::new(),
        "something was written"
    );
    let largest = AdapterFiles::new(vec![b' '; limit], vec![1]);
    let digest = store.put(&largest, &lineage()).await.unwrap();
    assert_eq!(store.get(&digest).await.unwrap().files, largest);
}

#[tokio::test]
async fn another_base_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let digest = store.put(&files(1), &lineage()).await.unwrap();
    let manifest = store.manifest(&digest).await.unwrap();
    let (served, other) = (
        BaseDigest(Sha256Digest::of(b"base")),
        BaseDigest(Sha256Digest::of(b"other")),
    );
    assert_eq!(check_base(&manifest, &served).unwrap(), BaseMatch::Verified);
    match check_base(&manifest, &other) {
        Err(AdapterStoreError::BaseMismatch {
            adapter,
            served: found,
        }) => {
            assert_eq!((adapter, found), (served, other));
        }
        other => panic!("{other:?}"),
    }
    let foreign = store
        .put(&files(2), &Lineage::imported(UnixMillis(1)))
        .await
        .unwrap();
    let foreign = store.manifest(&foreign).await.unwrap();
    assert_eq!(
        check_base(&foreign, &served).unwrap(),
        BaseMatch::Unverified
    );
}

#[tokio::test]
async fn a_sweep_removes_old_leftovers_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = AdapterStore::local(folder.path()).unwrap();
    let kept = store.put(&files(1), &lineage()).await.unwrap();
    let half = store.put(&files(2), &lineage()).await.unwrap();
    std::fs::remove_file(folder.path().join("manifests").join(half.hex())).unwrap();
    let staged = folder.path().join("files").join(kept.hex()).join("abc#1");
    std::fs::write(staged, b"1234").unwrap();
    let hour = Duration::from_secs(3600);
    let now = ids::Clock::now(&ids::SystemClock);
    let young = store.sweep(now, hour).await.unwrap();
    assert_eq!(young.files, 0);
    let swept = store.sweep(now.plus(2 * hour), hour).await.unwrap();
    assert_eq!((swept.files, swept.bytes), (3, 300 + 8 + 4));
    assert_eq!(store.get(&kept).await.unwrap().files, files(1));
    assert_eq!(on_disk(folder.path()).len(), 3);
}

#[tokio::test]
async fn many_writers_of_one_version_agree() {
    let folder = tempfile::tempdir().unwrap();
    let puts = (0..16).map(|_| async {
        let store = AdapterStore::local(folder.path()).unwrap();
        store.put(&files(1), &lineage()).await
    });
    for digest in futures::future::join_all(puts).await {
        assert_eq!(digest.unwrap(), files(1).digest());
    }
    let store = AdapterStore::local(folder.path()).unwrap();
    assert_eq!(store.get(&files(1).digest()).await.unwrap().files, files(1));
    assert_eq!(on_disk(folder.path()).len(), 3);
}

#[test]
fn locations_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    assert!(AdapterStore::from_url(&url).is_ok());
    let wrong = AdapterStore::from_url("gs://bucket");
    assert!(matches!(wrong, Err(AdapterStoreError::Location(_))));
}
