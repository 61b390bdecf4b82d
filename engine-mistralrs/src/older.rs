//! `config.json` in the words that mistralrs reads. Transformers 5 writes the
//! parameters of the rotary embedding into a field of their own, and the number of
//! experts by another name; the crate knows the fields of before.

use serde_json::{Map, Value as Json};

/// The configurations of parts, which have the same fields.
const PARTS: [&str; 1] = ["text_config"];

/// `config` with the older fields where only the newer ones are.
pub(crate) fn older(config: &Map<String, Json>) -> Map<String, Json> {
    let mut config = config.clone();
    add(&mut config);
    for part in PARTS {
        if let Some(Json::Object(part)) = config.get_mut(part) {
            add(part);
        }
    }
    config
}

fn add(config: &mut Map<String, Json>) {
    add_rope(config);
    if let Some(experts) = config.get("num_local_experts").cloned() {
        config.entry("num_experts").or_insert(experts);
    }
}

fn add_rope(config: &mut Map<String, Json>) {
    let Some(Json::Object(rope)) = config.get("rope_parameters").cloned() else {
        return;
    };
    // layers of different kinds have different ones
    let (whole, local) = match rope.get("full_attention") {
        Some(Json::Object(whole)) => (whole.clone(), rope.get("sliding_attention").cloned()),
        _ => (rope, None),
    };
    let mut set = |name: &str, value: Option<&Json>| {
        let is_absent = config.get(name).is_none_or(Json::is_null);
        if let Some(value) = value.filter(|_| is_absent) {
            config.insert(name.to_owned(), value.clone());
        }
    };
    set("rope_theta", whole.get("rope_theta"));
    let local = local.as_ref().and_then(|local| local.get("rope_theta"));
    set("rope_local_base_freq", local);
    if scaling(&whole).is_some() || whole.contains_key("mrope_section") {
        let mut scaling = whole.clone();
        scaling.remove("rope_theta");
        set("rope_scaling", Some(&Json::Object(scaling)));
    }
}

/// How positions are scaled, if they are.
fn scaling(rope: &Map<String, Json>) -> Option<&str> {
    let kind = rope.get("rope_type").or_else(|| rope.get("type"))?;
    kind.as_str().filter(|&kind| kind != "default")
}

/// How the positions of an older configuration are scaled, where mistralrs would
/// pass over it without a word.
pub(crate) fn lost_scaling(older: &Map<String, Json>) -> Option<&str> {
    const WITHOUT_SCALING: [&str; 6] = [
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "starcoder2",
    ];
    // of a part alone
    const PARTS_WITHOUT_SCALING: [&str; 2] = ["qwen3_vl_text", "qwen3_vl_moe_text"];
    let mut parts = PARTS
        .iter()
        .filter_map(|part| older.get(*part)?.as_object());
    let of_part = parts.find_map(|part| lost(part, &PARTS_WITHOUT_SCALING));
    lost(older, &WITHOUT_SCALING).or(of_part)
}

fn lost<'a>(config: &'a Map<String, Json>, models: &[&str]) -> Option<&'a str> {
    let model = config.get("model_type")?.as_str()?;
    let scaled = scaling(config.get("rope_scaling")?.as_object()?);
    scaled.filter(|_| models.contains(&model))
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(newer: Json, expected: &Json) {
        let Json::Object(newer) = newer else {
            panic!("no object")
        };
        let mut found = older(&newer);
        found.remove("rope_parameters");
        assert_eq!(&Json::Object(found), expected);
    }

    #[test]
    fn the_older_fields_are_added_where_they_are_not() {
        check(
            json!({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}),
            &json!({"rope_theta": 5.0}),
        );
        check(
            json!({"rope_scaling": null, "rope_parameters": {"rope_theta": 5.0, "rope_type": "llama3", "factor": 4.0}}),
            &json!({"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", "factor": 4.0}}),
        );
        check(
            json!({"text_config": {"rope_theta": 3.0}, "rope_parameters": {
                "full_attention": {"rope_theta": 5.0, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 1.0},
            }}),
            &json!({
                "text_config": {"rope_theta": 3.0},
                "rope_theta": 5.0,
                "rope_local_base_freq": 1.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            }),
        );
        let mrope = json!({"rope_type": "default", "mrope_section": [1, 2]});
        let mut newer = mrope.clone();
        newer["rope_theta"] = json!(5.0);
        check(
            json!({"text_config": {"rope_parameters": newer}}),
            &json!({"text_config": {"rope_parameters": newer, "rope_theta": 5.0, "rope_scaling": mrope}}),
        );
        check(
            json!({"text_config": {"num_local_experts": 4}}),
            &json!({"text_config": {"num_local_experts": 4, "num_experts": 4}}),
        );
        let before = json!({"rope_theta": 3.0, "rope_scaling": {"type": "yarn"}});
        check(before.clone(), &before);
    }

    #[test]
    fn a_scaling_that_would_be_lost_is_found() {
        let lost = |config: Json| {
            let config = config.as_object().cloned().unwrap_or_default();
            lost_scaling(&older(&config)).map(str::to_owned)
        };
        let rope = json!({"rope_type": "yarn", "factor": 2.0});
        let found = lost(json!({"model_type": "qwen2", "rope_parameters": rope}));
        assert_eq!(found.as_deref(), Some("yarn"));
        assert_eq!(
            lost(json!({"model_type": "llama", "rope_scaling": rope})),
            None
        );
        for (part, expected) in [("qwen3_vl_text", Some("yarn")), ("mistral", None)] {
            let text = json!({"model_type": part, "rope_scaling": rope});
            assert_eq!(lost(json!({"text_config": text})).as_deref(), expected);
        }
        assert_eq!(
            lost(json!({"model_type": "qwen2", "rope_scaling": null})),
            None
        );
    }
}
