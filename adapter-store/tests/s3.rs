//! Versions on S3. Needs the feature `s3` and a bucket of one's own, named by
//! `ADAPTER_STORE_S3_URL` and reached with what the `AWS_…` variables say.
#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::panic)]

use adapter_store::{AdapterFiles, AdapterStore, AdapterStoreError, Lineage};
use ids::UnixMillis;

#[tokio::test]
#[ignore = "needs a bucket, see above"]
async fn versions_live_on_s3_too() {
    let url = std::env::var("ADAPTER_STORE_S3_URL").unwrap();
    let store = AdapterStore::from_url(&url).unwrap();
    let files = AdapterFiles::new(&b"{}"[..], vec![7; 3 << 20]);
    let first = Lineage::imported(UnixMillis(1));
    let digest = store.put(&files, &first).await.unwrap();
    // The second put finds the first one's manifest and keeps it.
    store
        .put(&files, &Lineage::imported(UnixMillis(2)))
        .await
        .unwrap();
    let stored = store.get(&digest).await.unwrap();
    assert_eq!((stored.files, stored.manifest.lineage), (files, first));
    assert_eq!(store.list().await.unwrap().len(), 1);
    store.delete(&digest).await.unwrap();
    assert!(matches!(
        store.get(&digest).await,
        Err(AdapterStoreError::NotFound(_))
    ));
    assert_eq!(store.list().await.unwrap(), []);
}
