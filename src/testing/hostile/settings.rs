//! Settings: the text of one, the variables of a process, a file.

use super::{SECRET, Target, assert_secret, assert_told, unseen};
use crate::error::Error;
use crate::settings::{Environment, Layers, Origin, SPECS, Settings};

/// An address as it has to be, but for its end: the secret stands where a password does.
const ADDRESS: &str = "postgres://u:hunter2@h:5432/d";

pub(super) const TEXT: Target = Target {
    name: "settings_text",
    holds: text,
    words: &[
        "5m",
        "250ms",
        "1day",
        " 1h",
        "5",
        "-1",
        "18446744073709551615s",
        "99999999999years",
        "0s",
        "true",
        "off",
        "no",
        "1000",
        "1001",
        "a",
        "\u{202e}",
        "\n",
        "\u{1b}[31m",
        "/tmp/x",
        "/",
        "postgres://",
        "u:hunter2@",
        "h:5432",
        "/d",
        "?sslmode=",
        "password=hunter2",
        "\u{0}",
        "tttttttttttttttttttttttttttttttttttttttttttttttt",
        "\\",
        "\"",
    ],
};

pub(super) const ENVIRONMENT: Target = Target {
    name: "settings_environment",
    holds: environment,
    words: &[
        "\n",
        "=",
        "DATABASE_URL=",
        "LISTEN_DATABASE_URL=",
        "SYNC_CONFIG_TABLE_NAME=",
        "SYNC_CONFIG_CHANNEL=",
        "SYNC_CONFIG_POLL_JITTER=",
        "SYNC_CONFIG_JITTER_MAX=",
        "SYNC_CONFIG_MAX_CONNECTIONS=",
        "SYNC_CONFIG_STATE_FILE=",
        "SYNC_CONFIG_TABEL_NAME=",
        "SYNC_CONFIG_SERVICE_PORT=",
        "SYNC_CONFIG_",
        "HOME=",
        "DATABASE_URL_FILE=",
        ADDRESS,
        "5m",
        "true",
        "/tmp/x",
        "\u{1b}[31m",
        "\u{202e}",
        "x",
    ],
};

#[cfg(feature = "toml")]
pub(super) const FILE: Target = Target {
    name: "settings_file",
    holds: file,
    words: &[
        "\n",
        " = ",
        "[services.a]\n",
        "[services.b]\n",
        "[pools.main]\n",
        "[services]\n",
        "dbpool_name = \"main\"\n",
        "dbpool_name = \"postgres://u:hunter2@h:5432/d\"\n",
        "database_url_file = \"postgres://u:hunter2@h:5432/d\"\n",
        "database_url = \"postgres://u:hunter2@h:5432/d\"\n",
        "table_name = \"t\"\n",
        "table_name = \"\\u202e\"\n",
        "poll_interval = 5\n",
        "poll_interval = \"5m\"\n",
        "migrate = true\n",
        "max_connections = 0x10\n",
        "max_connections = 1e3\n",
        "state_file = \"/tmp/x\"\n",
        "'''",
        "\"",
        "#",
        "[",
        "]",
        "{",
        "}",
        "1979-05-27T07:32:00Z",
        "\"postgres://u:hunter2@h:5432/d\" = 1\n",
        "\u{1b}",
        "\u{202e}",
        "jitter_max = \"1s\"\n",
        "poll_jitter = \"1s\"\n",
        "database_ur1 = ",
    ],
};

/// The text of a setting is taken and can be told again, or is refused by the setting's name.
fn text(data: &[u8]) {
    let Some((choice, Ok(text))) =
        (data.split_first()).map(|(at, rest)| (*at, std::str::from_utf8(rest)))
    else {
        return;
    };
    let name = SPECS[usize::from(choice) % SPECS.len()].name;
    let secret = name.ends_with("database_url");
    let refused = |error: &Error| {
        let said = error.to_string();
        assert!(error.is_invalid_input() && said.contains(name), "{said}");
        if secret {
            assert_secret(&said);
        } else {
            assert_told(&said);
        }
    };
    let settings = match Settings::default().with(name, text) {
        Ok(settings) => settings,
        Err(error) => return refused(&error),
    };
    let told = settings
        .text_of(name)
        .expect("a setting that was set has a text");
    let again = Settings::default().with(name, &told);
    assert_eq!(again.ok().as_ref(), Some(&settings), "{name} = {text:?}");
    match settings.check() {
        Ok(()) => {
            shown(&Layers::new(settings.clone()));
            // Addresses and passwords are written percent-encoded.
            assert!(!told.contains(unseen), "{name} = {text:?}");
        }
        Err(error) => refused(&error),
    }
    if secret {
        assert!(!format!("{settings:?}").contains(SECRET));
    }
}

/// What a command shows of settings that were taken.
fn shown(layers: &Layers) {
    for setting in layers.iter() {
        let value = setting.value.unwrap_or_default();
        assert!(!value.contains(unseen), "{} = {value:?}", setting.name);
        assert!(!setting.origin.to_string().contains(unseen));
    }
}

/// Variables are used or refused, and what was used is what they say.
fn environment(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let pairs: Vec<(&str, &str)> = (text.split('\n'))
        .filter_map(|line| line.split_once('='))
        // Nothing is read from a disk here: an address is refused before, as no path.
        .filter(|(name, value)| {
            value.is_empty() || value.contains("://") || !name.ends_with("_URL_FILE")
        })
        .collect();
    let environment = Environment::new(pairs.iter().copied());
    let addresses = pairs
        .iter()
        .filter(|(name, _)| name.trim_end_matches("_FILE").ends_with("DATABASE_URL"));
    let only_there = pairs
        .iter()
        .filter(|(_, value)| value.contains(SECRET))
        .count();
    let secret = only_there
        == addresses
            .filter(|(_, value)| value.contains(SECRET))
            .count();
    assert!(!format!("{environment:?}").contains(ADDRESS));
    match Layers::new(Settings::default()).environment(&environment) {
        Ok(layers) => {
            shown(&layers);
            for spec in SPECS {
                let Some(Origin::Environment(variable)) = layers.origin(spec.name) else {
                    continue;
                };
                // Of two variables of one name the later one counts, as in a process.
                let given = pairs.iter().rev().find(|(name, _)| name == variable);
                let (_, given) = given.expect("a variable that was used was given");
                let alone = Settings::default().with(spec.name, given);
                let alone = alone.expect("what was taken among others is taken alone");
                let text = |settings: &Settings| settings.text_of(spec.name);
                assert_eq!(text(layers.settings()), text(&alone));
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(error.is_invalid_input(), "{said}");
            // A piece of a password may be a name, and names are shown; a whole address is none.
            let names = pairs.iter().map(|(name, _)| name);
            let named = |name: &&str| name.contains(SECRET) && !name.contains("u:hunter2@");
            if secret && !names.copied().any(|name| named(&name)) {
                assert_secret(&said);
            } else {
                assert_told(&said);
            }
        }
    }
}

/// A file of settings is taken, or refused by a line of it, without a password being shown.
#[cfg(feature = "toml")]
fn file(data: &[u8]) {
    use crate::settings::SettingsFile;
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let passwords = text.matches("postgres://u:hunter2@h").count();
    let refused = |error: &Error| {
        let said = error.to_string();
        assert!(error.is_invalid_input(), "{said}");
        if passwords == text.matches(SECRET).count() {
            assert_secret(&said);
        } else {
            assert_told(&said);
        }
    };
    let file = match SettingsFile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.to_string().starts_with("<text>"), "{error}");
            return refused(&error);
        }
    };
    assert!(!format!("{file:?}").contains("u:hunter2@"));
    // Nothing is read from a disk here.
    if text.contains("_file") {
        return;
    }
    let names: Vec<&str> = file.services().collect();
    let asked = names
        .iter()
        .copied()
        .map(Some)
        .chain([None, Some("nobody")]);
    for name in asked {
        match file.layers(name, Settings::default(), &Environment::default()) {
            Ok(layers) => {
                layers.check().expect("what was taken is within its bounds");
                shown(&layers);
            }
            Err(error) => refused(&error),
        }
    }
}
