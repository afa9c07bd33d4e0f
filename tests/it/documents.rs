//! The documents say what the code does.

use sync_config::SPECS;

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The table of settings as the README should hold it.
fn settings_table() -> String {
    let mut table =
        "| setting | environment | default | bounds | |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    for spec in SPECS {
        let default = if spec.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", spec.default)
        };
        table += &format!(
            "| `{}` | `{}` | {default} | {} | {} |\n",
            spec.name, spec.env, spec.bounds, spec.about
        );
    }
    table
}

#[test]
fn the_readme_lists_every_setting_with_default_and_bounds() {
    let (readme, table) = (read("README.md"), settings_table());
    assert!(
        readme.contains(&table),
        "README.md should hold this table:\n{table}"
    );
}

#[test]
fn every_snippet_of_the_examples_page_stands_in_its_example() {
    let page = read("EXAMPLES.md");
    let mut checked = 0;
    for section in page.split("<!-- examples/").skip(1) {
        let (name, rest) = section.split_once(" -->").expect("a marker names its file");
        let example = read(&format!("examples/{name}"));
        let block = rest
            .strip_prefix("\n```rust\n")
            .expect("a block follows its marker");
        let (block, _) = block.split_once("\n```\n").expect("the block ends");
        for part in block.split("\n\n// …\n\n") {
            assert!(
                example.contains(part),
                "examples/{name} does not hold:\n{part}"
            );
        }
        checked += 1;
    }
    assert_eq!(checked, page.matches("```rust").count(), "all are checked");
}

#[test]
fn every_example_has_its_section_and_every_section_its_example() {
    let page = read("EXAMPLES.md");
    let directory = format!("{}/examples", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(directory).expect("there are examples");
    let files = files.map(|file| file.expect("a file").path());
    let mut examples: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    examples.sort();
    let mut sections = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let (title, _) = section.split_once('\n').expect("a title is a line");
        let run = section.lines().find(|line| line.starts_with("`cargo run "));
        let run = run.unwrap_or_else(|| panic!("{title}: says how to run it"));
        let name = run.trim_end_matches('`').rsplit(' ').next().unwrap_or("");
        let mut needed = vec![
            format!("<!-- examples/{name}.rs -->"),
            "\n```text\n".to_owned(),
        ];
        if name != "demo" {
            // its times differ; all others print the same each time, and `.ci/example` compares
            needed.push(format!("\n<!-- prints: {name} -->\n```text\n"));
        }
        for needed in needed {
            assert!(section.contains(&needed), "{title}: {needed:?} is missing");
        }
        let row = format!("\n| [`{name}`](examples/{name}.rs) | ");
        assert!(page.contains(&row), "the table does not name {name}");
        sections.push(name.to_owned());
    }
    sections.sort();
    assert_eq!(sections, examples);
}

#[test]
fn every_package_of_the_library_is_named_in_the_readme() {
    let (manifest, readme) = (read("Cargo.toml"), read("README.md"));
    let (_, dependencies) = manifest
        .split_once("[dependencies]")
        .expect("there are dependencies");
    let (dependencies, _) = dependencies
        .split_once("[dev-dependencies]")
        .expect("and ones of the tests");
    for name in dependencies
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
    {
        assert!(readme.contains(name), "README.md does not name {name}");
    }
}

#[test]
fn the_readmes_checksums_are_those_of_the_code() {
    let (readme, code) = (read("README.md"), read("src/core/checksum.rs"));
    for vector in ["5f9c514f", "9d889403"] {
        assert!(readme.contains(vector) && code.contains(vector), "{vector}");
    }
}
