//! Passwords in settings: where they are read from, and that nothing shows them.

use sync_config::{Environment, Origin, Settings, SettingsFile};

use crate::settings_files::{SEVERAL, layered, refused, source, value};
use crate::support::program::Scratch;

#[test]
fn a_secret_beside_the_file_is_read_when_nothing_stronger_replaces_it() {
    let dir = Scratch::new("secrets");
    std::fs::write(dir.path().join("url"), "postgres://u:hunter2@h/d\n").unwrap();
    let path = dir.path().join("settings.toml");
    std::fs::write(
        &path,
        "\ndatabase_url_file = 'url'\nlisten_database_url_file = 'gone'\n",
    )
    .unwrap();
    let file = SettingsFile::read(&path).unwrap();
    let layered = |variables: &[(&str, &str)]| {
        let environment = Environment::new(variables.iter().copied());
        file.layers(None, Settings::default(), &environment)
    };
    refused(layered(&[]), &["settings.toml:3", "gone", "cannot be read"]);
    let layers = layered(&[("LISTEN_DATABASE_URL", "postgres://u@direct/d")]).unwrap();
    assert_eq!(value(&layers, "database_url"), "postgres://u:…@h/d");
    let origin = layers.origin("database_url").unwrap();
    assert!(matches!(origin, Origin::SecretFile { path, .. } if *path == dir.path().join("url")));
    assert!(source(&layers, "database_url").contains("settings.toml:2"));
    let gone = SettingsFile::read(dir.path().join("none.toml")).unwrap_err();
    assert!(
        gone.is_invalid_input() && gone.to_string().contains("none.toml"),
        "{gone}"
    );
    std::fs::write(&path, vec![b'#'; 1_100_000]).unwrap();
    let long = SettingsFile::read(&path).unwrap_err();
    assert!(long.to_string().contains("1048576 bytes"), "{long}");
}

#[test]
fn nothing_of_a_file_shows_a_password() {
    let file = SettingsFile::parse(SEVERAL).unwrap();
    for (text, shown) in [
        ("postgres://u:hunter2@h/d", "postgres://u:…@h/d"),
        (
            "postgresql://u:hunter2@[::1]:1,h:2/d",
            "postgresql://u:…@[::1]:1,h:2/d",
        ),
        (
            "postgres://u@h/d?password=hunter2",
            "postgres://u@h/d?password=…",
        ),
        (
            "postgres://h/d?user=u&password=hunter2",
            "postgres://h/d?user=u&password=…",
        ),
        ("host=h user=u password=hunter2", "host=h user=u password=…"),
        (
            "host=h user=u password='hunter2 hunter2'",
            "host=h user=u password=…",
        ),
        ("password = hunter2 host = h", "password=… host=h"),
    ] {
        let dsn = format!("database_url = \"{text}\"\nlisten_database_url = \"{text}\"");
        let layers = layered(&dsn, None, &[]).unwrap();
        assert_eq!(value(&layers, "database_url"), shown);
        let environment = Environment::new([("DATABASE_URL", text)]);
        let settings = layers.settings().clone();
        let told = format!(
            "{layers:?}{settings:?}{environment:?}{:?}{:?}{:?}",
            SettingsFile::parse(&dsn),
            layers.iter().collect::<Vec<_>>(),
            sync_config::Builder::new(settings.clone()),
        );
        assert!(!told.contains("hunter2"), "{told}");
    }
    let services =
        sync_config::Services::new(&file, &Settings::default(), &Environment::default()).unwrap();
    let config = services.layers("config-service").unwrap();
    let shown = format!(
        "{file:?}{services:?}{config:?}{:?}{:?}",
        config.iter().collect::<Vec<_>>(),
        sync_config::Builder::new(config.settings().clone())
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("config-service"), "{shown}");
}

#[test]
fn an_address_in_the_place_of_a_path_or_a_name_is_refused_without_being_shown() {
    let address = "postgres://u:hunter2@h/d";
    for text in [
        format!("database_url_file = '{address}'"),
        format!("listen_database_url_file = '{address}'"),
        "database_url_file = 'u:hunter2@h/d'".to_owned(),
        "database_url_file = 'host=h user=u password=hunter2'".to_owned(),
        format!("[pools.a]\ndatabase_url_file = '{address}'\n[services.s]\ndbpool_name = 'a'"),
        format!("[pools.a]\n[services.s]\ndbpool_name = '{address}'"),
    ] {
        let error = layered(&text, None, &[]).unwrap_err();
        let said = format!("{error}{error:?}");
        assert!(
            error.is_invalid_input() && said.contains("<text>:"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    let several = "[services.s]\n[services.t]\ntable_name = 't'";
    for text in [several, ""] {
        refused(layered(text, Some(address), &[]), &["no service", "…"]);
    }
    let error = SettingsFile::read(address).unwrap_err();
    let said = format!("{error}{error:?}");
    assert!(
        error.is_invalid_input() && !said.contains("hunter2"),
        "{said}"
    );
}
