//! A load against leases, without an engine.

use ids::Sha256Digest;
use model::kernels::Team;
use model::lora::{LoraAdapter, LoraConfig};
use model::quant::Precision;

use super::*;
use crate::native::fuzz::tiny;

fn adapter(seed: u64) -> DeviceAdapter {
    let model = tiny();
    let config = LoraConfig::uniform(2, 16.0);
    let adapter = LoraAdapter::new_random(&model.config, &config, seed).unwrap();
    let digest = AdapterDigest(Sha256Digest::of(&seed.to_le_bytes()));
    DeviceAdapter::new(digest, &adapter, &model.config, Precision::Int8)
}

fn load(registry: &Arc<AdapterRegistry>, seed: u64) -> AdapterDigest {
    let adapter = adapter(seed);
    let digest = adapter.digest;
    let reservation = registry.reserve(adapter.byte_len());
    let Ok(reservation) = reservation else {
        panic!("no room")
    };
    reservation.complete(adapter);
    digest
}

/// A registry with room for two, and both of them.
fn full() -> (Arc<AdapterRegistry>, [AdapterDigest; 2], u64) {
    Team::new(1, "adapters").unwrap().lead(|| {
        let bytes = adapter(0).byte_len();
        let registry = AdapterRegistry::new(2 * bytes, Duration::ZERO);
        let loaded = [load(&registry, 0), load(&registry, 1)];
        (registry, loaded, bytes)
    })
}

#[test]
fn a_load_is_passed_by_only_so_often() {
    let (registry, [a, b], bytes) = full();
    let mut leases = vec![registry.lease(&a).unwrap(), registry.lease(&b).unwrap()];
    assert!(matches!(registry.reserve(bytes), Err(NoRoom::Now)));
    let waiting = registry.wait_for(bytes);
    for i in 1..PASSED_BY_MAX {
        let digest = if i % 2 == 0 { a } else { b };
        leases.push(registry.lease(&digest).unwrap());
        leases.remove(0);
    }
    // the 64th was to be of a, and a was unused for longer
    let refused = registry.lease(&a).err();
    assert_eq!(refused, Some(EngineError::AdapterNotLoaded(a)));
    assert!(
        registry.revive(&a).is_none(),
        "nor does a load bring it back"
    );
    assert!(registry.lease(&b).is_ok(), "one is enough");
    leases.retain(|lease| lease.adapter().digest != a);
    let reservation = registry.reserve(bytes).ok().unwrap();
    drop(waiting);
    assert!(registry.lease(&b).is_ok());
    drop(reservation);
}

#[test]
fn what_is_pinned_does_not_yield() {
    let (registry, [a, b], bytes) = full();
    registry.pin(&[a]);
    let leases = [registry.lease(&a).unwrap(), registry.lease(&b).unwrap()];
    let waiting = registry.wait_for(bytes);
    for _ in 0..2 * PASSED_BY_MAX {
        drop(registry.lease(&a).unwrap());
    }
    assert!(registry.lease(&b).is_err());
    drop(waiting);
    assert!(
        registry.lease(&b).is_ok(),
        "a load that gave up changes nothing"
    );
    drop(leases);
}
