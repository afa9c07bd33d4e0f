//! Who may use whom: `bin -> cli -> server -> keys -> service -> runtime -> store -> core`, and a core that is pure.
//!
//! The text of the sources is read, so that a breach names its file and line. Doc and plain comments may say anything.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// What would let a clock, chance, the outside world or a scheduler into the core.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::time::Instant",
    "SystemTime::now",
    "::now(",
    "std::net",
    "std::fs",
    "rand::",
    "tracing",
    "async fn",
    ".await",
    "println",
    "std::thread",
];

/// From the top to the bottom: nobody may use what stands before it.
const LAYERS: [&str; 9] = [
    "bin", "testing", "cli", "server", "keys", "service", "runtime", "store", "core",
];

struct Line {
    file: PathBuf,
    number: usize,
    code: String,
}

fn sources(under: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(under) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn lines(file: &Path) -> Vec<Line> {
    let text = fs::read_to_string(file).unwrap();
    let mut nested = false;
    (text.lines().enumerate())
        .map(|(at, line)| Line {
            file: file.to_owned(),
            number: at + 1,
            code: unfolded(line.split("//").next().unwrap_or_default(), &mut nested),
        })
        .collect()
}

/// Writes `use crate::{runtime::Clock, store::Page}`, on one line or several, as `crate::runtime::Clock` and so on.
fn unfolded(code: &str, nested: &mut bool) -> String {
    *nested |= code.contains("use crate::{");
    if !*nested {
        return code.to_owned();
    }
    *nested = !code.contains(';');
    let code = code.trim().replace("crate::{", "crate::");
    format!("crate::{}", code.replace(", ", ", crate::"))
}

/// The sources of a module: its directory, and the file of its name.
fn module(name: &str) -> Vec<Line> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = sources(&src.join(name));
    let single = src.join(name).with_extension("rs");
    files.extend(single.is_file().then_some(single));
    files.iter().flat_map(|file| lines(file)).collect()
}

/// Fails with every line of `lines` that holds one of `words`.
fn refuse<'a>(lines: &[Line], words: impl IntoIterator<Item = &'a str> + Clone, why: &str) {
    let breaches: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            let word = words
                .clone()
                .into_iter()
                .find(|word| line.code.contains(word))?;
            let (file, number) = (line.file.display(), line.number);
            Some(format!("{file}:{number}: `{word}`"))
        })
        .collect();
    assert!(breaches.is_empty(), "{why}:\n{}", breaches.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let core = module("core");
    assert!(core.len() > 2_000, "the core was not found");
    refuse(
        &core,
        IMPURE,
        "the core waits, looks outside or draws numbers",
    );
}

#[test]
fn nobody_uses_a_layer_above() {
    for (at, layer) in LAYERS.iter().enumerate() {
        let above: Vec<String> = (LAYERS[..at].iter())
            .filter(|above| **above != "bin")
            .flat_map(|above| [format!("crate::{above}"), format!("super::super::{above}")])
            .collect();
        let above = above.iter().map(String::as_str);
        refuse(
            &module(layer),
            above,
            &format!("{layer} uses a layer above it"),
        );
    }
}

#[test]
fn the_core_has_its_own_errors_and_no_settings() {
    let words = ["crate::error", "crate::settings", "crate::coordination"];
    refuse(
        &module("core"),
        words,
        "the core uses what only the layers above may",
    );
}

#[test]
fn settings_and_errors_stand_on_the_core_alone() {
    for name in ["settings", "error"] {
        let above: Vec<String> = (LAYERS[..8].iter())
            .filter(|above| **above != "bin")
            .map(|above| format!("crate::{above}"))
            .collect();
        let above = above.iter().map(String::as_str);
        refuse(&module(name), above, &format!("{name} uses a layer"));
    }
}

#[test]
fn stores_do_not_know_each_other() {
    let stores = ["memory", "postgres", "sqlite", "remote"];
    for store in stores {
        for other in stores.into_iter().filter(|other| *other != store) {
            let words = [
                format!("store::{other}"),
                format!("super::{other}"),
                format!("super::super::{other}"),
            ];
            let words = words.iter().map(String::as_str);
            let lines = module(&format!("store/{store}"));
            refuse(&lines, words, &format!("the store {store} knows {other}"));
        }
    }
}

#[test]
fn folded_imports_are_seen_through() {
    let mut nested = false;
    let folded = [
        "use crate::{",
        "    runtime::Clock,",
        "    core::{Key, Value},",
        "};",
        "a, b",
    ];
    let seen = folded.map(|line| unfolded(line, &mut nested));
    assert!(seen[1].contains("crate::runtime"), "{seen:?}");
    assert_eq!(seen[4], "a, b");
}
