//! The kinds of models that are shown images: what each makes of its configuration.
//! The crate's code for each was read, and what it would panic on is refused here.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::sides::Sides;

/// The longest `preprocessor_config.json` and `processor_config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest side of a square that a model may take images in, in pixels.
const SIDE_MAX: u64 = 2048;
/// The most pixels of an image that a model takes in its own shape: larger ones are
/// made smaller, whatever the model's configuration says. The crate keeps what the
/// model saw of the last 32.
const PIXELS_MAX: u64 = 2 << 20;

/// What stands around an image's seats, which stand in rows.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) before: &'static str,
    pub(crate) between_rows: &'static str,
    pub(crate) after: &'static str,
}

/// How the crate is given a prompt with images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handed {
    /// Its text, in which the crate expands the markers.
    Marked,
    /// Its text with the markers expanded: the crate would expand all of them to the
    /// first image's size.
    Expanded,
    /// The names of its tokens, in which the crate expands the markers: it writes and
    /// reads the sequence again for each token, and a text may come back as others.
    Spelled,
}

/// What a model's kind says of it.
pub(crate) struct Shape {
    pub(crate) sides: Sides,
    pub(crate) marker: &'static str,
    pub(crate) seat: &'static str,
    pub(crate) unit: u64,
    pub(crate) frame: Frame,
    pub(crate) handed: Handed,
    pub(crate) known: Vec<(&'static str, u32)>,
    pub(crate) between: Option<[&'static str; 2]>,
    /// By Pillow's numbers.
    pub(crate) filter_default: u64,
    pub(crate) more: Json,
    pub(crate) processor: Json,
}

/// What the kind of a folder's model says, with how its images are prepared; `Err`
/// says why it is shown none.
pub(crate) fn shape(
    config: &Map<String, Json>,
    folder: &Path,
) -> Result<(Shape, Map<String, Json>), String> {
    let prepared = prepared(folder)?;
    let shape = match architecture(config) {
        Some("Idefics3ForConditionalGeneration") => idefics3(config, &prepared)?,
        Some("Gemma3ForConditionalGeneration") => gemma3(config)?,
        Some("Qwen3VLForConditionalGeneration" | "Qwen3VLMoeForConditionalGeneration") => {
            qwen3_vl(config, &prepared)?
        }
        Some("Mistral3ForConditionalGeneration") => mistral3(config, &prepared)?,
        other => {
            let name = other.unwrap_or("without a name");
            return Err(format!(
                "images are not passed on to the architecture {name}"
            ));
        }
    };
    Ok((shape, prepared))
}

/// The model's architecture, if the crate (0.8.1) panics with it on a CPU: with the
/// first request, text alone, and serves none after it.
pub(crate) fn fails_here(config: &Map<String, Json>) -> Option<&str> {
    const ON_CPU: [&str; 2] = [
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    ];
    architecture(config).filter(|name| !cfg!(feature = "cuda") && ON_CPU.contains(name))
}

fn architecture(config: &Map<String, Json>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

/// How the model's images are prepared, from the file that says so: of its own, or
/// a part of the processor's.
fn prepared(folder: &Path) -> Result<Map<String, Json>, String> {
    if let Some(own) = read(&folder.join("preprocessor_config.json"))? {
        return Ok(own);
    }
    match read(&folder.join("processor_config.json"))? {
        Some(mut whole) => match whole.remove("image_processor") {
            Some(Json::Object(part)) => Ok(part),
            _ => Ok(whole),
        },
        None => Err("it has no preprocessor_config.json".to_owned()),
    }
}

fn read(path: &Path) -> Result<Option<Map<String, Json>>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if length > CONFIG_BYTES_MAX {
        return Err(wrong(&"it is too long"));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(&e))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| wrong(&e))
}

fn number(value: Option<&Json>, what: &str) -> Result<u64, String> {
    let number = value.and_then(Json::as_u64).filter(|&number| number > 0);
    number.ok_or_else(|| format!("{what} is not a number above 0"))
}

/// The number of a token.
fn token(config: &Map<String, Json>, key: &str) -> Result<u32, String> {
    u32::try_from(number(config.get(key), key)?).map_err(|error| error.to_string())
}

/// The side of a vision tower's images and of its patches.
fn vision(config: &Map<String, Json>) -> Result<(u64, u64), String> {
    let vision = part(config, "vision_config")?;
    let side = |key| number(vision.get(key), key);
    Ok((side("image_size")?, side("patch_size")?))
}

/// A part of a configuration.
fn part<'a>(config: &'a Map<String, Json>, name: &str) -> Result<&'a Map<String, Json>, String> {
    let part = config.get(name).and_then(Json::as_object);
    part.ok_or_else(|| format!("there is no {name}"))
}

/// Whether the sides fit: patches in an image, and seats among the patches. How many
/// pixels a seat stands for.
fn fits(side: u64, patch: u64, pooled: u64) -> Result<u64, String> {
    let patches = side / patch;
    if side > SIDE_MAX || !side.is_multiple_of(patch) || !patches.is_multiple_of(pooled) {
        return Err(format!(
            "images of {side} pixels do not go into patches of {patch}, {pooled} by {pooled} pooled"
        ));
    }
    Ok(patch * pooled)
}

/// One square for all images.
fn square(side: u64, unit: u64) -> Result<(Sides, Json, Json), String> {
    let sides = Sides::Square(u32::try_from(side).map_err(|error| error.to_string())?);
    let more = json!({
        "size": {"height": side, "width": side},
        "max_image_size": {"longest_edge": side},
    });
    Ok((sides, more, json!({"image_seq_len": (side / unit).pow(2)})))
}

/// The pixels that a seat stands for where `merged` by `merged` patches share one, and
/// that the two configurations are of one mind about it.
fn merged(patch: u64, merged: u64, prepared: &Map<String, Json>) -> Result<u32, String> {
    let agreed = |key: &str, expected: u64| match prepared.get(key) {
        None | Some(Json::Null) => Ok(()),
        Some(Json::Object(sides)) if sides.values().all(|side| side == expected) => Ok(()),
        Some(value) if value == expected => Ok(()),
        Some(value) => Err(format!("{key} is {value} and {expected}")),
    };
    agreed("patch_size", patch)?;
    agreed("merge_size", merged)?;
    agreed("temporal_patch_size", 2)?;
    for key in ["image_mean", "image_std"] {
        if prepared.get(key).is_none_or(Json::is_null) {
            return Err(format!("there is no {key}"));
        }
    }
    // the crate divides by 255, whatever is said
    let factor = prepared.get("rescale_factor").and_then(Json::as_f64);
    if factor.is_some_and(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err("rescale_factor is not a 255th".to_owned());
    }
    let unit = patch.saturating_mul(merged);
    match u32::try_from(unit) {
        Ok(unit) if (2..=SIDE_MAX).contains(&u64::from(unit)) => Ok(unit),
        _ => Err(format!("a seat stands for {unit} pixels")),
    }
}

fn idefics3(config: &Map<String, Json>, prepared: &Map<String, Json>) -> Result<Shape, String> {
    let (largest, patch) = vision(config)?;
    let scale = number(config.get("scale_factor"), "scale_factor")?;
    let edge = prepared.get("max_image_size");
    let edge = edge.and_then(|size| size.get("longest_edge"));
    let side = number(edge, "max_image_size.longest_edge")?;
    if side > largest {
        return Err(format!("images of {side} pixels are larger than {largest}"));
    }
    let unit = fits(side, patch, scale)?;
    let (sides, more, processor) = square(side, unit)?;
    Ok(Shape {
        sides,
        marker: "<image>",
        seat: "<image>",
        unit,
        frame: Frame {
            before: "<fake_token_around_image><global-img>",
            between_rows: "",
            after: "<fake_token_around_image>",
        },
        handed: Handed::Marked,
        known: Vec::new(),
        between: None,
        filter_default: 1,
        more,
        processor,
    })
}

fn gemma3(config: &Map<String, Json>) -> Result<Shape, String> {
    let (side, patch) = vision(config)?;
    let seats = number(config.get("mm_tokens_per_image"), "mm_tokens_per_image")?;
    let row = seats.isqrt();
    let pooled = (side / patch).checked_div(row).filter(|&pooled| pooled > 0);
    let pooled = pooled.ok_or("mm_tokens_per_image are more than patches")?;
    let unit = fits(side, patch, pooled)?;
    if (side / unit).pow(2) != seats {
        return Err(format!(
            "{seats} mm_tokens_per_image are no square of patches"
        ));
    }
    let (sides, more, processor) = square(side, unit)?;
    Ok(Shape {
        sides,
        marker: "<start_of_image>",
        seat: "<image_soft_token>",
        unit,
        frame: Frame {
            before: "\n\n<start_of_image>",
            between_rows: "",
            after: "<end_of_image>\n\n",
        },
        handed: Handed::Marked,
        known: Vec::new(),
        between: None,
        filter_default: 2,
        more,
        processor,
    })
}

fn qwen3_vl(config: &Map<String, Json>, prepared: &Map<String, Json>) -> Result<Shape, String> {
    let vision = part(config, "vision_config")?;
    let of = |key| number(vision.get(key), key);
    let (patch, merge) = (of("patch_size")?, of("spatial_merge_size")?);
    let frames = of("temporal_patch_size")?;
    if frames != 2 {
        return Err(format!("temporal_patch_size is {frames}"));
    }
    let unit = merged(patch, merge, prepared)?;
    let pixels = |names: [&str; 2]| {
        let size = prepared.get("size");
        let [own, other] = names;
        let value = prepared.get(own).filter(|value| !value.is_null());
        number(value.or(size.and_then(|size| size.get(other))), own)
    };
    let least = pixels(["min_pixels", "shortest_edge"])?;
    let most = pixels(["max_pixels", "longest_edge"])?.min(PIXELS_MAX);
    if least > most || most < u64::from(unit).pow(2) {
        return Err(format!("images have {least} to {most} pixels"));
    }
    Ok(Shape {
        sides: Sides::Area { unit, least, most },
        marker: "<|image_pad|>",
        seat: "<|image_pad|>",
        unit: unit.into(),
        frame: Frame::default(),
        handed: Handed::Spelled,
        known: vec![
            ("<|image_pad|>", token(config, "image_token_id")?),
            ("<|vision_start|>", token(config, "vision_start_token_id")?),
            ("<|vision_end|>", token(config, "vision_end_token_id")?),
        ],
        between: Some(["<|vision_start|>", "<|vision_end|>"]),
        filter_default: 3,
        more: json!({
            "patch_size": patch,
            "merge_size": merge,
            "temporal_patch_size": frames,
            "min_pixels": least,
            "max_pixels": most,
        }),
        processor: json!({}),
    })
}

fn mistral3(config: &Map<String, Json>, prepared: &Map<String, Json>) -> Result<Shape, String> {
    let text = part(config, "text_config")?;
    let model = text.get("model_type").and_then(Json::as_str);
    // others scale their questions by position, which the crate passes over
    if model != Some("mistral") {
        return Err(format!("its text model is {model:?}, not mistral"));
    }
    let (largest, patch) = vision(config)?;
    let merge = number(config.get("spatial_merge_size"), "spatial_merge_size")?;
    let unit = merged(patch, merge, prepared)?;
    let edge = prepared
        .get("size")
        .and_then(|size| size.get("longest_edge"));
    let longest = number(edge, "size.longest_edge")?;
    let filled = longest.next_multiple_of(unit.into());
    if filled > largest.min(SIDE_MAX) {
        return Err(format!(
            "images of {filled} pixels are larger than {largest}, or {SIDE_MAX}"
        ));
    }
    Ok(Shape {
        sides: Sides::Within {
            unit,
            longest: u32::try_from(longest).map_err(|error| error.to_string())?,
        },
        marker: "[IMG]",
        seat: "[IMG]",
        unit: unit.into(),
        frame: Frame {
            before: "",
            between_rows: "[IMG_BREAK]",
            after: "[IMG_END]",
        },
        handed: Handed::Expanded,
        known: vec![("[IMG]", token(config, "image_token_index")?)],
        between: None,
        filter_default: 3,
        more: json!({
            "patch_size": patch,
            "default_to_square": true,
            "size": {"longest_edge": longest},
        }),
        // what it would expand is in no prompt
        processor: json!({
            "image_token": "[IMG_END][IMG_BREAK]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
            "patch_size": patch,
            "spatial_merge_size": merge,
        }),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sight::Sight;

    /// What is made of the golden's configurations, with these values changed.
    fn of(name: &str, config: &Json, prepared: &Json) -> Result<Sight, String> {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/vision");
        let folder = tempfile::tempdir().unwrap();
        let read = |file: &str, changes: &Json| {
            let mut map = read(&golden.join(name).join(file)).unwrap().unwrap();
            for (key, value) in changes.as_object().unwrap() {
                match (map.get_mut(key), value) {
                    (Some(Json::Object(part)), Json::Object(more)) => part.extend(more.clone()),
                    _ => {
                        map.insert(key.clone(), value.clone());
                    }
                }
            }
            map
        };
        let prepared = Json::Object(read("preprocessor_config.json", prepared));
        let path = folder.path().join("preprocessor_config.json");
        std::fs::write(path, prepared.to_string()).unwrap();
        Sight::of(&read("config.json", config), folder.path())
    }

    fn sides(name: &str, config: &Json, prepared: &Json) -> (Sides, u32) {
        let sight = of(name, config, prepared).unwrap();
        (sight.sides, sight.unit)
    }

    #[test]
    fn the_sizes_come_from_the_configuration() {
        let same = json!({});
        for name in ["idefics3", "gemma3"] {
            let found = sides(name, &same, &same);
            assert_eq!(found, (Sides::Square(32), 16), "{name}");
        }
        let area = |least, most| Sides::Area {
            unit: 16,
            least,
            most,
        };
        assert_eq!(sides("qwen3_vl", &same, &same), (area(256, 2048), 16));
        // the older names, and more than an image may have
        let older = json!({"min_pixels": 512, "max_pixels": 1_u64 << 40});
        let found = sides("qwen3_vl", &same, &older);
        assert_eq!(found, (area(512, PIXELS_MAX), 16));
        let within = Sides::Within {
            unit: 16,
            longest: 64,
        };
        assert_eq!(sides("mistral3", &same, &same), (within, 16));
        // as SmolVLM, Gemma 3 and Mistral Small are published
        let large =
            json!({"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4});
        let edge = json!({"max_image_size": {"longest_edge": 512}});
        let found = of("idefics3", &large, &edge).unwrap();
        assert_eq!(found.seat_count(found.some_size()), 64);
        let large = json!({"vision_config": {"image_size": 896, "patch_size": 14}, "mm_tokens_per_image": 256});
        let found = of("gemma3", &large, &same).unwrap();
        assert_eq!(found.seat_count(found.some_size()), 256);
        let large = json!({"vision_config": {"image_size": 1540, "patch_size": 14}});
        let prepared = json!({"size": {"longest_edge": 1540}, "patch_size": 14});
        let within = Sides::Within {
            unit: 28,
            longest: 1540,
        };
        assert_eq!(sides("mistral3", &large, &prepared), (within, 28));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn what_fails_on_a_cpu_is_known() {
        let of = |name: &str| {
            json!({"architectures": [name]})
                .as_object()
                .cloned()
                .unwrap()
        };
        let fails = of("Qwen3_5ForConditionalGeneration");
        assert_eq!(fails_here(&fails), Some("Qwen3_5ForConditionalGeneration"));
        assert_eq!(fails_here(&of("Qwen3ForCausalLM")), None);
        assert_eq!(fails_here(&Map::new()), None);
    }

    #[test]
    fn all_that_answers_depend_on_is_in_the_form() {
        let same = json!({});
        let forms = ["idefics3", "gemma3", "qwen3_vl", "mistral3"];
        let forms = forms.map(|name| of(name, &same, &same).unwrap().form());
        for (at, form) in forms.iter().enumerate() {
            assert!(!forms[..at].contains(form), "{form}");
        }
        let more = json!({"size": {"longest_edge": 4096}});
        assert_ne!(of("qwen3_vl", &same, &more).unwrap().form(), forms[2]);
    }

    #[test]
    fn what_does_not_fit_is_said_before_the_crate_panics() {
        let same = json!({});
        let reason = |name, config: Json, prepared: Json| {
            of(name, &config, &prepared).map(|_| ()).unwrap_err()
        };
        let odd = reason("idefics3", json!({"scale_factor": 3}), same.clone());
        assert!(odd.contains("pooled"), "{odd}");
        let wide = json!({"max_image_size": {"longest_edge": 40}});
        assert!(reason("idefics3", same.clone(), wide).contains("larger"));
        let no = json!({"max_image_size": {"longest_edge": 0}});
        assert!(reason("idefics3", same.clone(), no).contains("longest_edge"));
        for seats in [3, 9, 0, 1_000_000] {
            let config = json!({"mm_tokens_per_image": seats});
            reason("gemma3", config, same.clone());
        }
        let other = json!({"architectures": ["LlavaForConditionalGeneration"]});
        assert!(reason("gemma3", other, same.clone()).contains("Llava"));
        let filter = json!({"resample": 9});
        assert!(reason("gemma3", same.clone(), filter).contains("resample"));
        for (config, prepared, expected) in [
            (json!({}), json!({"patch_size": 14}), "patch_size"),
            (json!({}), json!({"merge_size": 3}), "merge_size"),
            (json!({}), json!({"temporal_patch_size": 1}), "temporal"),
            (json!({}), json!({"image_mean": null}), "image_mean"),
            (json!({}), json!({"rescale_factor": 1}), "rescale_factor"),
            (json!({}), json!({"size": {"shortest_edge": 4096}}), "4096"),
            (json!({}), json!({"size": {"longest_edge": 100}}), "100"),
            (json!({}), json!({"size": null}), "min_pixels"),
            (json!({"image_token_id": null}), json!({}), "image_token_id"),
            (
                json!({"vision_config": {"temporal_patch_size": 4}}),
                json!({}),
                "temporal",
            ),
        ] {
            let found = reason("qwen3_vl", config, prepared);
            assert!(found.contains(expected), "{found}");
        }
        for (config, prepared, expected) in [
            (json!({}), json!({"size": {"longest_edge": 80}}), "larger"),
            (json!({}), json!({"patch_size": 9}), "patch_size"),
            (
                json!({"text_config": {"model_type": "ministral3"}}),
                json!({}),
                "ministral3",
            ),
        ] {
            let found = reason("mistral3", config, prepared);
            assert!(found.contains(expected), "{found}");
        }
        let nowhere = shape(&Map::new(), Path::new("/nowhere"));
        let reason = nowhere.map(|_| ()).unwrap_err();
        assert!(reason.contains("preprocessor_config.json"));
    }
}
