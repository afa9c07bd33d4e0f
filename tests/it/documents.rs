//! The documents say what the code does.

use sync_config::{SPECS, Settings};

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

/// The blocks of a page that are written in a language.
#[cfg(feature = "toml")]
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    let blocks = page.split(opening.as_str()).skip(1);
    blocks
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .collect()
}

#[cfg(feature = "toml")]
#[test]
fn the_readmes_files_of_settings_are_read_as_they_stand() {
    use sync_config::{Environment, Services, SettingsFile};
    let readme = read("README.md");
    let blocks = blocks(&readme, "toml");
    let [single, several] = blocks[..] else {
        panic!("{} files of settings", blocks.len())
    };
    let nothing = Environment::default();
    let single = SettingsFile::parse(single).unwrap();
    let layers = single.layers(None, Settings::default(), &nothing).unwrap();
    assert_eq!(layers.origin("heartbeat_interval").unwrap().kind(), "file");
    let several = SettingsFile::parse(several).unwrap();
    let services = Services::new(&several, &Settings::default(), &nothing).unwrap();
    assert_eq!(
        services.names().collect::<Vec<_>>(),
        ["config-service", "user-settings"]
    );
    assert_eq!(services.pool_name("user-settings"), Some("my-db-pool"));
    let named = readme.split("SYNC_CONFIG_").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        format!("SYNC_CONFIG_{}", &rest[..end.unwrap_or(rest.len())])
    });
    let refused = [
        "SYNC_CONFIG_",
        "SYNC_CONFIG_SCHEMA",
        "SYNC_CONFIG_TABLE_NAME",
        "SYNC_CONFIG_CHANNEL",
    ];
    let mut checked = 0;
    for variable in named.filter(|name| !refused.contains(&name.as_str())) {
        let environment = Environment::new([(variable.as_str(), "")]);
        let outcome = several.layers(Some("user-settings"), Settings::default(), &environment);
        let said = outcome.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!said.contains("there is no variable"), "{variable}: {said}");
        checked += 1;
    }
    assert!(checked >= 15, "{checked} variables");
}

/// The text of every source below a directory.
fn sources(directory: &str) -> Vec<String> {
    let path = format!("{}/{directory}", env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let name = format!("{directory}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(sources(&name));
        } else if name.ends_with(".rs") {
            found.push(read(&name));
        }
    }
    found
}

/// A variable that something reads and the settings do not know of would be refused as a typo.
#[test]
fn every_variable_that_the_project_reads_is_known_to_the_settings() {
    let mut checked = 0;
    for source in ["src", "tests", "examples", "benches"]
        .iter()
        .flat_map(|directory| sources(directory))
    {
        for call in ["var(\"", "var_os(\"", "env = \""] {
            for rest in source
                .split(call)
                .skip(1)
                .filter(|rest| rest.starts_with("SYNC_CONFIG_"))
            {
                let name = rest.split('"').next().unwrap_or_default();
                let environment = sync_config::Environment::new([(name, "")]);
                let outcome =
                    sync_config::Layers::new(Settings::default()).environment(&environment);
                let said = outcome.map_or_else(|error| error.to_string(), |_| String::new());
                assert!(!said.contains("there is no variable"), "{name}: {said}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 8, "{checked} variables");
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

/// Whether a text is what a page says, where `…` stands for anything on one line.
#[cfg(feature = "server")]
fn fits(said: &str, page: &str) -> bool {
    let (said, page): (Vec<&str>, Vec<&str>) = (said.lines().collect(), page.lines().collect());
    let fits = |said: &str, page: &str| {
        let mut parts = page.split('…');
        let Some(mut rest) = parts.next().and_then(|first| said.strip_prefix(first)) else {
            return false;
        };
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
        }
        rest.is_empty() || page.ends_with('…')
    };
    said.len() == page.len() && said.iter().zip(&page).all(|(said, page)| fits(said, page))
}

/// The commands of a block, each with what it prints.
#[cfg(feature = "server")]
fn commands(block: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        let goes_on =
            |(command, printed): &(String, String)| command.ends_with('\\') && printed.is_empty();
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else if let Some(last) = commands.last_mut() {
            let into = if goes_on(last) {
                &mut last.0
            } else {
                &mut last.1
            };
            if !into.is_empty() || line.is_empty() {
                into.push('\n');
            }
            into.push_str(line);
        }
    }
    commands
}

#[cfg(feature = "server")]
#[tokio::test]
async fn the_readmes_requests_are_answered_as_it_says() {
    use crate::support::postgres::TestDb;
    use crate::support::program::{Server, run};
    let readme = read("README.md");
    let (_, block) = readme
        .split_once("<!-- run by a test -->\n```console\n")
        .expect("the block");
    let (block, _) = block.split_once("```").expect("its end");
    let db = TestDb::new().await;
    let at = Server::start(db.url()).await;
    let address = at.address.to_string();
    let commands = commands(block);
    assert!(commands.len() >= 12);
    // One shell for all, so that what one sets the next one knows.
    let mark = "\u{1}end of a command";
    let script: Vec<String> = (commands.iter())
        .map(|(command, _)| {
            format!(
                "{}\nprintf '\\n{mark}\\n'\n",
                command.replace("127.0.0.1:8420", &address)
            )
        })
        .collect();
    let mut bash = tokio::process::Command::new("bash");
    let output = run(bash.args(["-c", &script.concat()])).await;
    let told = String::from_utf8(output.stdout).expect("text");
    let said: Vec<&str> = told
        .split(mark)
        .map(|said| said.trim_matches('\n'))
        .collect();
    let faults = String::from_utf8_lossy(&output.stderr);
    for ((command, page), said) in commands.iter().zip(&said) {
        assert!(
            fits(said, page.trim_matches('\n')),
            "$ {command}\n{said}\n… and README.md says:\n{page}\n{faults}"
        );
    }
}

#[cfg(feature = "server")]
#[test]
fn what_a_page_says_is_compared_line_by_line() {
    assert!(fits("a 1 b\nc", "a … b\nc") && fits("x: 12", "x: …"));
    assert!(!fits("a 1 c", "a … b") && !fits("a", "a\nb") && !fits("ab", "a"));
    let two = commands("$ one \\\n  more\nprinted\n\nlast\n$ two\n");
    assert_eq!(
        two[0],
        ("one \\\n  more".to_owned(), "printed\n\nlast".to_owned())
    );
    assert_eq!(two[1], ("two".to_owned(), String::new()));
}
