//! The documents tell the truth about the tree: what they name exists.

use std::{collections::BTreeSet, fs, path::PathBuf};

use netguard_common::{DropReason, EventKind};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The texts between backticks, outside of code blocks.
fn code_spans(markdown: &str) -> Vec<&str> {
    let prose = markdown.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_path_that_the_documents_name_exists() {
    let mut checked = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        for span in code_spans(&text) {
            // "netguard-ebpf/src/egress.rs" or "netguard-ebpf/src/egress.rs::judge".
            let (path, item) = span.split_once("::").unwrap_or((span, ""));
            let in_tree = ["netguard", "xtask/", "tests/", "dist/", "docs/", ".ci/"];
            let is_path = path.contains('/')
                && !path.contains([' ', '<'])
                && in_tree.iter().any(|start| path.starts_with(start));
            if !is_path {
                continue;
            }
            let full = root().join(path);
            assert!(full.exists(), "{document} names {path}, which does not exist");
            checked += 1;
            if item.is_empty() {
                continue;
            }
            let name = item.rsplit("::").next().unwrap_or(item);
            let source = fs::read_to_string(&full).expect("a source file");
            let defined = ["fn ", "struct ", "enum ", "static ", "const ", "trait ", "type "]
                .iter()
                .any(|kind| source.contains(&format!("{kind}{name}")));
            assert!(defined, "{document} names {span}, which {path} does not define");
        }
    }
    assert!(checked > 40, "only {checked} paths: are the spans still found?");
}

#[test]
fn architecture_lists_every_drop_reason_as_the_registry_has_it() {
    let text = read("ARCHITECTURE.md");
    for reason in DropReason::ALL {
        let row = format!("| {} | `{}` | {} |", reason.code(), reason.name(), reason.sentence());
        assert!(text.contains(&row), "ARCHITECTURE.md lacks the row\n{row}");
    }
}

/// `docs/codes.md` as the registry has it. `NETGUARD_WRITE_DOCS=1` writes it.
#[test]
fn the_document_of_codes_is_the_registrys() {
    let mut written = include_str!("docs/codes.head.md").to_owned();
    let row = |code: u32, name: &str, sentence: &str, seed: &str| {
        format!("| {code} | `{name}` | {sentence} | {seed} |\n")
    };
    written += "\n## Events\n\n| code | event | what happened | comes from |\n|---|---|---|---|\n";
    for it in EventKind::ALL {
        written += &row(it.code(), it.name(), it.sentence(), it.seed());
    }
    written +=
        "\n## Drops\n\n| code | reason | what the packet did | comes from |\n|---|---|---|---|\n";
    for it in DropReason::ALL {
        written += &row(it.code(), it.name(), it.sentence(), it.seed());
    }
    if std::env::var_os("NETGUARD_WRITE_DOCS").is_some() {
        fs::write(root().join("docs/codes.md"), &written).expect("it is written");
    }
    let found = fs::read_to_string(root().join("docs/codes.md")).unwrap_or_default();
    let how = "NETGUARD_WRITE_DOCS=1 cargo test -p netguard-tests --test docs";
    assert!(found == written, "docs/codes.md is not what the registry says; write it by: {how}");
}

#[test]
fn every_code_has_one_meaning_and_a_source() {
    let reasons = DropReason::ALL.iter().map(|it| (it.code(), it.name(), it.sentence(), it.seed()));
    let events = EventKind::ALL.iter().map(|it| (it.code(), it.name(), it.sentence(), it.seed()));
    let mut codes = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (code, name, sentence, seed) in reasons.chain(events) {
        assert!(codes.insert(code) && names.insert(name), "{code} {name}");
        assert!(sentence.ends_with('.') && !seed.is_empty(), "{name}");
    }
    for (index, kind) in EventKind::ALL.iter().enumerate() {
        assert_eq!(EventKind::from_raw(*kind as u8), Some(*kind));
        assert_eq!((kind.code(), index + 1), (541_000 + *kind as u32, *kind as usize));
    }
    // Other people's alert rules wait for these.
    assert_eq!(EventKind::PolicyApplied.code(), 541_001);
    assert_eq!(EventKind::DetachAlarm.code(), 541_004);
}

#[test]
fn reasons_have_one_number_one_name_and_one_code_each() {
    for (index, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(DropReason::from_raw(*reason as u8), Some(*reason));
        assert_eq!(reason.code(), 540_000 + *reason as u32);
        for other in &DropReason::ALL[index + 1..] {
            assert_ne!(reason.name(), other.name());
            assert_ne!(*reason as u8, *other as u8);
        }
    }
    // Other people's alert rules wait for this one.
    assert_eq!(DropReason::CrossRuntime.code(), 540_001);
}

/// Every Rust file below a folder, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn who_may_know_whom() {
    for (path, text) in sources("netguard/src") {
        let place = path.to_string_lossy().replace('\\', "/");
        let uses = |krate: &str| {
            [format!("use {krate}::"), format!("use {krate};"), format!(" {krate}::")]
                .iter()
                .any(|needle| text.contains(needle))
        };
        assert!(!uses("aya") || place.contains("/datapath/"), "{place} imports aya");
        let may = ["/config/", "/daemon/channel.rs", "/daemon/overlay.rs"];
        let may = may.iter().any(|it| place.contains(it));
        assert!(!uses("serde") || may, "{place} imports serde");
        if place.contains("/policy/") {
            for io in ["tokio", "nix", "std::fs", "std::process", "crate::datapath", "crate::links"]
            {
                assert!(!text.contains(io), "{place} does I/O: {io}");
            }
        }
    }
    let dns = read("netguard-dns/Cargo.toml");
    assert!(
        !dns.contains("netguard.workspace") && !dns.contains("aya"),
        "the resolver knows too much"
    );
    let ebpf = read("netguard-ebpf/Cargo.toml");
    assert!(!ebpf.contains("netguard.workspace"), "the programs know only the common crate");
    assert!(!read("netguard-common/Cargo.toml").contains("[dependencies]"), "common knows nobody");
}

#[test]
fn no_document_names_a_test_command_that_ci_does_not_run() {
    assert!(read("README.md").contains("cargo xtask test"));
    assert!(read(".ci/run").contains("cargo xtask ci"));
    assert!(read("xtask/src/main.rs").contains("[\"xtask\", \"test\"]"));
}

/// Paths and methods of the control socket: those that the daemon routes are those that the document describes.
#[test]
fn the_document_of_the_control_socket_has_every_route_and_no_other() {
    let routes = read("netguard/src/control/routes.rs");
    let mut routed = BTreeSet::new();
    for line in routes.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, handlers) = line.split_once("\", ").expect("a path and its handlers");
        for method in ["get", "post", "put", "delete"] {
            if handlers.contains(&format!("{method}(")) {
                routed.insert(format!("{method} {path}"));
            }
        }
    }
    let mut path = "";
    let mut described = BTreeSet::new();
    let document = read("docs/openapi.yaml");
    let (paths, _) = document.split_once("components:").expect("components");
    for line in paths.lines() {
        if let Some(found) = line.strip_prefix("  /").and(line.trim().strip_suffix(':')) {
            path = found;
        }
        if let Some(method) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(':'))
            && ["get", "post", "put", "delete"].contains(&method)
        {
            described.insert(format!("{method} {path}"));
        }
    }
    assert!(routed.len() > 10, "{routed:?}");
    assert_eq!(routed, described);
}
