//! The map is true: crates depend on each other only as ARCHITECTURE.md says,
//! and the README's file map names what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The table of allowed edges in ARCHITECTURE.md, read from its text.
fn allowed(names: &BTreeSet<String>) -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let ticked = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let mut table = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let [name, _, may] = cells[..] else { continue };
        let Some(name) = ticked(name).into_iter().find(|name| names.contains(name)) else {
            continue;
        };
        let edges: BTreeSet<String> = if may.contains("everything") {
            names.clone()
        } else if may.contains("all but") {
            let but = ticked(may);
            names
                .iter()
                .filter(|name| !but.contains(name))
                .cloned()
                .collect()
        } else {
            ticked(may).into_iter().collect()
        };
        table.insert(name, edges);
    }
    table
}

#[test]
fn crates_depend_only_as_the_map_says() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let packages = metadata.workspace_packages();
    let names: BTreeSet<String> = packages.iter().map(|p| p.name.to_string()).collect();
    let allowed = allowed(&names);
    for package in packages {
        let name = package.name.to_string();
        let may = allowed
            .get(&name)
            .unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        for dependency in &package.dependencies {
            let edge =
                dependency.kind == DependencyKind::Normal && names.contains(&dependency.name);
            assert!(
                !edge || may.contains(&dependency.name),
                "{name} depends on {}, which ARCHITECTURE.md does not allow",
                dependency.name
            );
        }
    }
}

#[test]
fn only_the_gateway_knows_http() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    for package in metadata.workspace_packages() {
        let http = package
            .dependencies
            .iter()
            // An optional one belongs to a feature (object_store's S3 client).
            .filter(|d| d.kind == DependencyKind::Normal && !d.optional)
            .find(|d| ["actix-web", "reqwest", "hyper"].contains(&d.name.as_str()));
        if let Some(http) = http {
            assert_eq!(
                package.name.as_str(),
                "gateway",
                "{} uses {}",
                package.name,
                http.name
            );
        }
    }
}

#[test]
fn the_readme_names_every_top_level_folder() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for entry in std::fs::read_dir(root()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let generated = ["target", "data"].contains(&name.as_str());
        if entry.path().is_dir() && !name.starts_with('.') && !generated {
            assert!(
                readme.contains(&format!("`{name}`")),
                "README.md's file map lacks {name}"
            );
        }
    }
}
