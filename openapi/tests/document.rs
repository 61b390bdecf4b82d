//! The document as a whole.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(&openapi::document_json().unwrap()).unwrap()
}

#[test]
fn the_document_is_as_reviewed() {
    insta::assert_snapshot!("openapi", openapi::document_json().unwrap());
}

/// Everything that is named by `$ref`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(name)) = map.get("$ref") {
                found.insert(name.clone());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let all: BTreeSet<String> = schemas
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(found, all);
}

#[test]
fn operations_are_unique_and_guarded() {
    let document = document();
    let routes = openapi::routes();
    let mut ids = BTreeSet::new();
    for route in routes {
        let method = format!("{:?}", route.method).to_lowercase();
        let operation = &document["paths"][route.path][&method];
        assert!(
            ids.insert(operation["operationId"].to_string()),
            "{}",
            route.path
        );
        let guarded = operation.get("security").is_some();
        assert_eq!(
            guarded,
            route.access != openapi::Access::Open,
            "{}",
            route.path
        );
        let admin = ["/admin/", "/v1/files", "/v1/fine_tuning/"];
        let admin = admin.iter().any(|start| route.path.starts_with(start))
            || route.path.contains("lora_adapter");
        assert_eq!(
            route.access == openapi::Access::Admin,
            admin,
            "{}",
            route.path
        );
    }
    assert_eq!(ids.len(), routes.len());
    let operations: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p.as_object().unwrap().len())
        .sum();
    assert_eq!(operations, routes.len());
}

#[test]
fn path_parameters_are_declared() {
    let document = document();
    for route in openapi::routes() {
        let method = format!("{:?}", route.method).to_lowercase();
        let operation = &document["paths"][route.path][&method];
        let declared = operation["parameters"].as_array().map_or(0, |all| {
            all.iter()
                .filter(|p| p["in"] == "path" && p["required"] == true)
                .count()
        });
        assert_eq!(declared, route.path.matches('{').count(), "{}", route.path);
    }
}
