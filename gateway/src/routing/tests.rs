#![allow(clippy::unwrap_used)]

use engine::BaseInfo;
use ids::{AliasName, BaseDigest, BasisPoints, Sha256Digest, UnixMillis};
use rollout::Command;

use super::table::Alias;
use super::*;

fn digest(name: &str) -> AdapterDigest {
    AdapterDigest(Sha256Digest::of(name.as_bytes()))
}

fn base() -> BaseInfo {
    BaseInfo {
        name: "base".into(),
        digest: BaseDigest(Sha256Digest::of(b"base")),
        context_length: 100,
        takes_images: false,
    }
}

/// `public` has the stable version S and the canary C at a half.
fn router(resident: &[&str]) -> Router {
    let name = ModelName::new("public").unwrap();
    let mut table = Table::bare(base(), std::slice::from_ref(&name), UnixMillis(0));
    let model = table.models.get_mut("public").unwrap();
    model.rollout.stable = Some(digest("S"));
    let command = Command::SetCanary {
        adapter: digest("C"),
        basis_points: BasisPoints::new(5_000).unwrap(),
        new_salt: "salt".into(),
    };
    model.rollout = model.rollout.apply(command, UnixMillis(1)).unwrap();
    model.trial = Some(Arc::new(Trial::new(name, "salt".into())));
    let alias = Alias {
        name: AliasName::new("alias").unwrap(),
        digest: digest("A"),
    };
    table.aliases.insert("alias".into(), alias);
    table.resident = resident.iter().map(|name| digest(name)).collect();
    Router::new(table)
}

fn wish<'a>(model: &'a str, unit: Option<&'a UnitId>) -> Wish<'a> {
    Wish {
        model,
        adapter: None,
        unit,
        draw: 0,
    }
}

fn canary_users(router: &Router) -> usize {
    let units: Vec<UnitId> = (0..1000)
        .map(|n| UnitId::new(format!("user-{n}")).unwrap())
        .collect();
    let routes = units
        .iter()
        .map(|unit| router.resolve(&wish("public", Some(unit))).unwrap());
    routes
        .filter(|route| route.adapter == Some(digest("C")))
        .count()
}

#[test]
fn public_names_are_routed_and_everything_else_pins() {
    let router = router(&["S", "C", "A"]);
    assert!(
        (440..560).contains(&canary_users(&router)),
        "{}",
        canary_users(&router)
    );
    let to = |model: &str| {
        router
            .resolve(&wish(model, None))
            .map(|r| (r.adapter, r.assigned.is_some()))
    };
    assert_eq!(to("base").unwrap(), (None, false));
    assert_eq!(to("alias").unwrap(), (Some(digest("A")), false));
    assert_eq!(
        to(&digest("S").to_string()).unwrap(),
        (Some(digest("S")), false)
    );
    assert!(to("nobody").is_err());
    assert!(to(&digest("not resident").to_string()).is_err());
}

#[test]
fn a_registered_version_can_be_named_before_it_is_resident() {
    let router = router(&["S"]);
    let mut table = Table::bare(base(), &[], UnixMillis(0));
    table.aliases = router.table().aliases.clone();
    table.registered = [digest("A")].into();
    let router = Router::new(table);
    let to = |model: &str| router.resolve(&wish(model, None)).map(|r| r.adapter);
    assert_eq!(to("alias").unwrap(), Some(digest("A")));
    assert_eq!(to(&digest("A").to_string()).unwrap(), Some(digest("A")));
    assert!(to(&digest("S").to_string()).is_err());
}

#[test]
fn the_adapter_field_pins_under_a_known_model_only() {
    let router = router(&["S", "C", "A"]);
    let alias = AdapterSelector::Alias(AliasName::new("alias").unwrap());
    let exact = AdapterSelector::Digest {
        digest: digest("C"),
    };
    let to = |model: &str, adapter: &AdapterSelector| {
        let wish = Wish {
            model,
            adapter: Some(adapter),
            unit: None,
            draw: 0,
        };
        router.resolve(&wish).map(|route| route.adapter)
    };
    assert_eq!(to("public", &alias).unwrap(), Some(digest("A")));
    assert_eq!(to("base", &exact).unwrap(), Some(digest("C")));
    assert!(to("nobody", &alias).is_err());
    let unknown = AdapterSelector::Digest {
        digest: digest("X"),
    };
    assert!(to("base", &unknown).is_err(), "never the base in disguise");
}

#[test]
fn kill_switch_guard_and_missing_store_all_lead_to_stable() {
    let router = router(&["S", "C"]);
    router.kill.set(true, None, UnixMillis(2));
    assert_eq!(canary_users(&router), 0);
    router.kill.set(false, None, UnixMillis(3));
    assert!(canary_users(&router) > 0);
    router.set_store_away(true);
    assert_eq!(canary_users(&router), 0);
    router.set_store_away(false);
    let trial = router.table().models["public"].trial.clone().unwrap();
    for _ in 0..20 {
        trial.observe(Arm::Canary, Outcome::Error, &default_guardrails());
    }
    assert_eq!(canary_users(&router), 0);
}

#[test]
fn a_canary_that_is_not_resident_gets_nobody_and_a_missing_stable_is_an_error() {
    assert_eq!(canary_users(&router(&["S"])), 0);
    let nothing = router(&[]);
    let unit = UnitId::new("user-1").unwrap();
    let error = nothing.resolve(&wish("public", Some(&unit))).err().unwrap();
    assert!(matches!(
        error,
        ApiError::Unavailable(Unavailable::AdapterMissing)
    ));
}
