//! The properties, driven by proptest: inputs of the target's own words, of random text, and of random bytes.
//!
//! `PROPTEST_CASES` says how many inputs are tried for each. A failure is shrunk and printed; its input is kept as a file
//! of `fuzz/seeds/<target>`, which is tried first, here and by cargo-fuzz.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::{TARGETS, Target};

/// Inputs of each target, unless `PROPTEST_CASES` says otherwise: all targets take some seconds.
const CASES: u32 = 400;

/// Those of targets that open a connection for each.
const SLOW_CASES: u32 = 100;

fn inputs(target: &Target) -> impl Strategy<Value = Vec<u8>> + use<> {
    let text = String::into_bytes;
    let piece = prop_oneof![
        6 => select(target.words).prop_map(|word| word.as_bytes().to_vec()),
        2 => ".{0,4}".prop_map(text),
        1 => any::<char>().prop_map(move |character| text(character.to_string())),
        1 => "[0-9a-zA-Z:/=-]{1,12}".prop_map(text),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let pieces = prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat());
    let bytes = prop::collection::vec(any::<u8>(), 0..256);
    // Settings are chosen by the first byte.
    let begun =
        (any::<u8>(), "[ -~]{0,8}").prop_map(|(first, rest)| [&[first], rest.as_bytes()].concat());
    prop_oneof![8 => pieces, 1 => bytes, 1 => begun]
}

fn seeds(target: &Target) -> Vec<PathBuf> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target.name);
    let files =
        std::fs::read_dir(&seeds).unwrap_or_else(|error| panic!("{}: {error}", seeds.display()));
    files.map(|file| file.unwrap().path()).collect()
}

fn drive(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let files = seeds(target);
    assert!(!files.is_empty(), "there are seeds for {name}");
    for file in files {
        (target.holds)(&std::fs::read(file).unwrap());
    }
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let default = if name.starts_with("http") {
        SLOW_CASES
    } else {
        CASES
    };
    let config = Config {
        cases: cases.unwrap_or(default),
        // Kept as seeds instead, which stay what they are when the way to make inputs changes.
        failure_persistence: None,
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&inputs(target), |input| {
        let holds = std::panic::catch_unwind(|| (target.holds)(&input));
        holds.map_err(|_| TestCaseError::fail("see the panic above"))
    });
    if let Err(TestError::Fail(_, input)) = &tried {
        let text = String::from_utf8_lossy(input);
        let escaped: String = input.escape_ascii().to_string();
        panic!(
            "{name} does not hold of {text:?}; keep it: printf '%b' '{escaped}' > fuzz/seeds/{name}/NAME"
        );
    }
    tried.unwrap();
}

macro_rules! driven {
    ($($(#[$gate:meta])* $test:ident $name:literal)*) => {
        $(
            $(#[$gate])*
            #[test]
            fn $test() {
                drive($name);
            }
        )*

        #[test]
        fn every_target_is_driven_in_both_ways() {
            let driven = [$($(#[$gate])* $name),*];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(driven.as_slice(), all);
            let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
            let manifest = std::fs::read_to_string(package.join("Cargo.toml")).unwrap();
            for name in driven {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                let source = package.join("targets").join(format!("{name}.rs"));
                let source = std::fs::read_to_string(source).unwrap();
                assert!(source.contains(&format!("holds(\"{name}\", data)")), "{source}");
            }
        }
    };
}

driven! {
    a_notice_is_nothing_or_can_be_said_again "notice"
    a_key_is_taken_exactly_within_its_bounds_and_shown_harmlessly "key"
    a_value_is_kept_to_the_letter_or_refused_without_being_shown "value"
    the_text_of_a_setting_is_taken_or_refused_by_its_name "settings_text"
    variables_are_used_or_refused "settings_environment"
    #[cfg(feature = "toml")]
    a_file_of_settings_is_taken_or_refused_by_its_line "settings_file"
    an_address_is_understood_or_refused_and_its_password_never_shown "address"
    rows_of_the_journal_lead_to_the_state_they_say_or_to_none "journal"
    a_state_file_is_read_as_it_was_written_or_not_at_all "state_file"
    #[cfg(feature = "remote")]
    what_a_server_tells_is_a_history_or_nothing "server_news"
    #[cfg(feature = "remote")]
    the_state_of_a_server_is_taken_whole_or_not_at_all "server_state"
    #[cfg(feature = "server")]
    every_request_is_answered "http_request"
    #[cfg(feature = "server")]
    whatever_bytes_arrive_the_answer_is_well_formed "http_bytes"
}
