//! Foreign folders: what is read, and every way out of the root.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::Path;

use adapter_store::AdapterStoreError as E;
use adapter_store::folder::{PATH_BYTES_MAX, read_peft_folder};

fn write_adapter(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), b"{}").unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), b"weights").unwrap();
}

/// `root/good/nested` and `outside` are adapters.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    write_adapter(&place.path().join("root/good/nested"));
    write_adapter(&place.path().join("root-too"));
    write_adapter(&place.path().join("outside"));
    place
}

#[test]
fn folders_beneath_the_root_are_read() {
    let place = place();
    let root = place.path().join("root");
    let absolute = root.join("good/nested");
    for path in [
        "good/nested",
        "./good/./nested",
        "good//nested/",
        absolute.to_str().unwrap(),
    ] {
        let files = read_peft_folder(&root, path).unwrap();
        assert_eq!(&files.config_json[..], b"{}");
        assert_eq!(&files.safetensors[..], b"weights");
    }
}

#[test]
fn a_root_that_is_a_link_is_the_operators_choice() {
    let place = place();
    let link = place.path().join("link-to-root");
    symlink(place.path().join("root"), &link).unwrap();
    assert!(read_peft_folder(&link, "good/nested").is_ok());
    let real = place
        .path()
        .join("root/good/nested")
        .canonicalize()
        .unwrap();
    assert!(read_peft_folder(&link, real.to_str().unwrap()).is_ok());
}

#[test]
fn every_way_out_is_refused_and_told_from_missing() {
    let place = place();
    let root = place.path().join("root");
    symlink(place.path().join("outside"), root.join("link")).unwrap();
    symlink(root.join("good"), root.join("inner-link")).unwrap();
    symlink("../outside", root.join("good/relative-link")).unwrap();
    let outside = place.path().join("outside");
    let sibling = place.path().join("root-too");
    let dotted = root.join("../outside");
    let long = "x/".repeat(PATH_BYTES_MAX);
    let invalid = [
        "",
        "..",
        "../outside",
        "good/../../outside",
        "good/../good/nested",
        "link",
        "link/",
        "inner-link/nested",
        "good/relative-link",
        "/",
        "/etc",
        "a\0b",
        outside.to_str().unwrap(),
        sibling.to_str().unwrap(),
        dotted.to_str().unwrap(),
        &long,
    ];
    for path in invalid {
        let read = read_peft_folder(&root, path);
        assert!(matches!(read, Err(E::PathInvalid(_))), "{path:?}: {read:?}");
    }
    let name = "x".repeat(300);
    assert!(matches!(
        read_peft_folder(&root, &name),
        Err(E::PathInvalid(_))
    ));
    for path in ["missing", "good/missing", "good", "missing/deep"] {
        let read = read_peft_folder(&root, path);
        assert!(
            matches!(read, Err(E::PathNotFound(_))),
            "{path:?}: {read:?}"
        );
    }
}

#[test]
fn files_inside_may_be_no_links_either() {
    let place = place();
    let root = place.path().join("root");
    let folder = root.join("linked-file");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), b"{}").unwrap();
    let weights = place.path().join("outside/adapter_model.safetensors");
    symlink(weights, folder.join("adapter_model.safetensors")).unwrap();
    let read = read_peft_folder(&root, "linked-file");
    assert!(matches!(read, Err(E::PathInvalid(_))), "{read:?}");
    // A file in the place of a folder, and a folder in the place of a file.
    let read = read_peft_folder(&root, "good/nested/adapter_config.json");
    assert!(matches!(read, Err(E::PathInvalid(_))), "{read:?}");
    std::fs::create_dir_all(root.join("odd/adapter_config.json")).unwrap();
    let read = read_peft_folder(&root, "odd");
    assert!(matches!(read, Err(E::PathInvalid(_))), "{read:?}");
}

#[test]
fn a_pipe_does_not_hold_the_reader() {
    let place = place();
    let folder = place.path().join("root/pipe");
    std::fs::create_dir_all(&folder).unwrap();
    let pipe = folder.join("adapter_config.json");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let read = read_peft_folder(&place.path().join("root"), "pipe");
    assert!(matches!(read, Err(E::PathInvalid(_))), "{read:?}");
}

#[test]
fn pickled_weights_are_refused_by_name() {
    let place = place();
    let root = place.path().join("root");
    let folder = root.join("pickled");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("adapter_config.json"), b"{}").unwrap();
    std::fs::write(folder.join("adapter_model.bin"), b"pickle").unwrap();
    for path in ["pickled", "pickled/adapter_model.bin", "no/such/weights.PT"] {
        let read = read_peft_folder(&root, path);
        assert!(matches!(read, Err(E::Pickle(_))), "{path:?}: {read:?}");
    }
    std::fs::write(folder.join("adapter_model.safetensors"), b"weights").unwrap();
    let files = read_peft_folder(&root, "pickled").unwrap();
    assert_eq!(
        &files.safetensors[..],
        b"weights",
        "the pickle beside it is not touched"
    );
}

#[test]
fn file_sizes_are_limited() {
    let place = place();
    let root = place.path().join("root");
    let nested = root.join("good/nested");
    let config = std::fs::File::create(nested.join("adapter_config.json")).unwrap();
    config.set_len(adapter_store::CONFIG_BYTES_MAX + 1).unwrap();
    assert!(matches!(
        read_peft_folder(&root, "good/nested"),
        Err(E::Size { .. })
    ));
    config.set_len(0).unwrap();
    assert!(matches!(
        read_peft_folder(&root, "good/nested"),
        Err(E::Size { .. })
    ));
    std::fs::write(nested.join("adapter_config.json"), b"{}").unwrap();
    let weights = std::fs::File::create(nested.join("adapter_model.safetensors")).unwrap();
    weights
        .set_len(adapter_store::SAFETENSORS_BYTES_MAX + 1)
        .unwrap();
    assert!(matches!(
        read_peft_folder(&root, "good/nested"),
        Err(E::Size { .. })
    ));
}
