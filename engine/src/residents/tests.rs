//! A load against leases, without an engine.

use ids::Sha256Digest;

use super::*;

/// What every version here takes.
const BYTES: u64 = 10;

struct Version(AdapterDigest);

impl Resident for Version {
    fn digest(&self) -> AdapterDigest {
        self.0
    }

    fn rank(&self) -> u32 {
        2
    }

    fn byte_len(&self) -> u64 {
        BYTES
    }
}

fn load(registry: &Arc<Residents<Version>>, name: &str) -> AdapterDigest {
    let digest = AdapterDigest(Sha256Digest::of(name.as_bytes()));
    let reservation = registry.reserve(BYTES).ok().unwrap();
    reservation.complete(Version(digest));
    digest
}

/// A registry with room for two, and both of them.
fn full() -> (Arc<Residents<Version>>, [AdapterDigest; 2]) {
    let registry = Residents::new(2 * BYTES, Duration::ZERO);
    let loaded = [load(&registry, "a"), load(&registry, "b")];
    (registry, loaded)
}

#[test]
fn a_load_is_passed_by_only_so_often() {
    let (registry, [a, b]) = full();
    let mut leases = vec![registry.lease(&a).unwrap(), registry.lease(&b).unwrap()];
    assert!(matches!(registry.reserve(BYTES), Err(NoRoom::Now)));
    let waiting = registry.wait_for(BYTES);
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
    leases.retain(|lease| lease.adapter().0 != a);
    let reservation = registry.reserve(BYTES).ok().unwrap();
    drop(waiting);
    assert!(registry.lease(&b).is_ok());
    drop(reservation);
}

#[test]
fn what_is_pinned_does_not_yield() {
    let (registry, [a, b]) = full();
    registry.pin(&[a]);
    let leases = [registry.lease(&a).unwrap(), registry.lease(&b).unwrap()];
    let waiting = registry.wait_for(BYTES);
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
