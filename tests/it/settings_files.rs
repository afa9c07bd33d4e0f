//! Files of settings: what is read, what is refused, and who is stronger.

use sync_config::{Environment, Layers, Result, SPECS, Settings, SettingsFile};

pub(crate) const SEVERAL: &str = r#"
[pools.my-db-pool]
database_url = "postgres://u:hunter2@h/d"
schema = "public"
max_connections = 8

[services.config-service]
dbpool_name = "my-db-pool"
table_name = "app_config"
channel = "config_updates"
heartbeat_interval = "5m"
sync_on_mismatch = true

[services.users]
dbpool_name = "my-db-pool"
schema = "users"
"#;

pub(crate) fn layered(
    text: &str,
    service: Option<&str>,
    variables: &[(&str, &str)],
) -> Result<Layers> {
    let environment = Environment::new(variables.iter().copied());
    SettingsFile::parse(text)?.layers(service, Settings::default(), &environment)
}

pub(crate) fn value(layers: &Layers, name: &str) -> String {
    let found = layers.iter().find(|setting| setting.name == name);
    found.unwrap().value.unwrap_or_default()
}

pub(crate) fn source(layers: &Layers, name: &str) -> String {
    layers.origin(name).unwrap().to_string()
}

/// Checks that an error names what it should, and holds no password.
pub(crate) fn refused(outcome: Result<Layers>, words: &[&str]) {
    let error = outcome.unwrap_err();
    let said = error.to_string();
    assert!(error.is_invalid_input(), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    let told = format!("{said}{error:?}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_file_of_one_service_sets_what_its_lines_say() {
    let text = "# of one\ntable_name = \"app\"\nheartbeat_interval = \"1m\"\nmax_connections = 0x10\nmigrate = false\njitter_max = \"0s\"\n";
    let layers = layered(text, None, &[]).unwrap();
    for (name, text, line) in [
        ("table_name", "app", 2),
        ("heartbeat_interval", "1m", 3),
        ("max_connections", "16", 4),
        ("migrate", "false", 5),
        ("poll_jitter", "0s", 6),
    ] {
        assert_eq!(value(&layers, name), text);
        assert_eq!(source(&layers, name), format!("<text>:{line}"));
    }
    assert_eq!(source(&layers, "channel"), "default");
}

#[test]
fn code_is_weaker_than_the_file_and_the_file_than_the_environment() {
    let file = SettingsFile::parse("table_name = 'of_file'\nchannel = 'of_file'").unwrap();
    let code = Settings::default()
        .table_name("of_code")
        .channel("of_code")
        .schema("of_code");
    let environment = Environment::new([("SYNC_CONFIG_CHANNEL", "of_variable")]);
    let layers = file.layers(None, code, &environment).unwrap();
    for (name, text, of) in [
        ("schema", "of_code", "code"),
        ("table_name", "of_file", "<text>:1"),
        ("channel", "of_variable", "SYNC_CONFIG_CHANNEL"),
    ] {
        assert_eq!(
            (value(&layers, name), source(&layers, name)),
            (text.to_owned(), of.to_owned())
        );
    }
}

#[test]
fn every_setting_can_stand_in_a_file() {
    for spec in SPECS {
        let text = match spec.bounds.split_once(" to ") {
            _ if spec.bounds.ends_with("URL") => "\"postgres://u@h/d\"".to_owned(),
            _ if spec.bounds == "true or false" => spec.default.to_owned(),
            Some((_, most)) if most.parse::<u64>().is_ok() => most.to_owned(),
            Some((_, most)) if !most.contains([' ']) => format!("\"{most}\""),
            _ => "\"sample\"".to_owned(),
        };
        let layers = layered(&format!("{} = {text}", spec.name), None, &[]).unwrap();
        assert_eq!(source(&layers, spec.name), "<text>:1");
        let code = Settings::default().with(spec.name, text.trim_matches('"'));
        assert_eq!(*layers.settings(), code.unwrap(), "{}", spec.name);
    }
}

#[test]
fn a_wrong_line_is_named_with_what_is_wrong_and_never_shown() {
    for (text, words) in [
        (
            "\nheartbeat_intervall = '5m'",
            &[
                "<text>:2",
                "heartbeat_intervall",
                "did you mean heartbeat_interval?",
            ][..],
        ),
        (
            "databse_url = 'postgres://u:hunter2@h/d'",
            &["<text>:1", "did you mean database_url?"],
        ),
        (
            "frobnicate = 1",
            &["<text>:1", "frobnicate", "there are database_url"],
        ),
        (
            "heartbeat_interval = 5",
            &["<text>:1", "heartbeat_interval", "write 5m"],
        ),
        ("heartbeat_interval = 0.5", &["<text>:1", "write 0.5m"]),
        (
            "heartbeat_interval = '1ms'",
            &["<text>:1", "heartbeat_interval", "from 100ms to 1day"],
        ),
        (
            "heartbeat_interval = true",
            &["<text>:1", "heartbeat_interval", "boolean"],
        ),
        ("heartbeat_interval = 2026-01-01", &["<text>:1", "datetime"]),
        (
            "max_connections = 0",
            &["<text>:1", "max_connections", "from 1 to 1000"],
        ),
        (
            "max_connections = 99999999999999999999999",
            &["<text>:1", "from 1 to 1000"],
        ),
        ("max_connections = -1", &["<text>:1", "from 1 to 1000"]),
        ("max_connections = 1.5", &["<text>:1", "a number"]),
        ("migrate = 1", &["<text>:1", "migrate", "true or false"]),
        (
            "migrate = 'maybe'",
            &["<text>:1", "migrate", "true or false"],
        ),
        ("table_name = 5", &["<text>:1", "table_name", "a text"]),
        ("table_name = ['a']", &["<text>:1", "table_name", "array"]),
        ("table_name = ''", &["<text>:1", "table_name", "48"]),
        (
            "table_name = 'a'\ntable_name = 'b'",
            &["<text>:2", "not TOML"],
        ),
        (
            "poll_jitter = '1s'\njitter_max = '1s'",
            &["<text>:", "poll_jitter", "again"],
        ),
        (
            "database_url = 'postgres://u:hunter2@h/d",
            &["<text>:1", "not TOML"],
        ),
        (
            "database_url = postgres://u:hunter2@h/d",
            &["<text>:1", "not TOML"],
        ),
        (
            "database_url = 'mysql://u:hunter2@h/d'",
            &["<text>:1", "database_url", "postgres://"],
        ),
        (
            "\ndatabase_url = 'postgres://u:hunter2@h:port/d'",
            &["<text>:2", "database_url", "65535"],
        ),
        (
            "database_url = 'a'\ndatabase_url_file = 'b'",
            &["<text>:2", "database_url", "again"],
        ),
        (
            "database_url_file = 5",
            &["<text>:1", "database_url_file", "path"],
        ),
        (
            "database_url_file = '/does/not/exist'",
            &["<text>:1", "/does/not/exist", "cannot be read"],
        ),
        ("schema_file = 'x'", &["<text>:1", "schema_file"]),
        (
            "dbpool_name = 'p'",
            &["<text>:1", "dbpool_name", "[services.<name>]"],
        ),
        ("[tables]", &["<text>:1", "tables"]),
        ("migrate = true\nx = \"\\q\"", &["<text>:2", "not TOML"]),
    ] {
        refused(layered(text, None, &[]), words);
    }
}

#[test]
fn a_service_takes_from_its_pool_and_overrides_it() {
    let layers = layered(SEVERAL, Some("config-service"), &[]).unwrap();
    for (name, text, line) in [
        ("database_url", "postgres://u:…@h/d", 3),
        ("schema", "public", 4),
        ("max_connections", "8", 5),
        ("table_name", "app_config", 9),
        ("channel", "config_updates", 10),
    ] {
        assert_eq!(value(&layers, name), text);
        assert_eq!(source(&layers, name), format!("<text>:{line}"));
    }
    let layers = layered(SEVERAL, Some("users"), &[]).unwrap();
    assert_eq!(
        (value(&layers, "schema"), source(&layers, "schema")),
        ("users".to_owned(), "<text>:16".to_owned())
    );
    assert_eq!(value(&layers, "table_name"), "sync_config");
}

#[test]
fn declarations_that_do_not_fit_together_are_refused() {
    let pool = "[pools.p]\ndatabase_url = 'postgres://u:hunter2@h/d'\n";
    let service = |text: &str| format!("{pool}[services.a]\n{text}");
    for (text, words) in [
        (
            service("dbpool_name = 'q'"),
            &["<text>:4", "service a", "no pool \"q\"", "there are p"][..],
        ),
        (service("dbpool_name = 5"), &["<text>:4", "dbpool_name"]),
        (
            service("dbpool_name = 'p'\ndatabase_url = 'postgres://u:hunter2@h/d'"),
            &["<text>:5", "database_url", "[pools.p]"],
        ),
        (
            service("dbpool_name = 'p'\nlisten_database_url = 'postgres://u:hunter2@h/d'"),
            &["<text>:5", "listen_database_url"],
        ),
        (
            service("dbpool_name = 'p'\nmax_connections = 2"),
            &["<text>:5", "max_connections"],
        ),
        (
            service("dbpool_name = 'p'\n[services.b]\ndbpool_name = 'p'"),
            &["<text>:5", "services a and b", "sync_config"],
        ),
        (
            service(
                "dbpool_name = 'p'\nchannel = 'x'\n[services.b]\ndbpool_name = 'p'\nchannel = 'y'",
            ),
            &["services a and b"],
        ),
        (
            service(
                "dbpool_name = 'p'\n[services.a-b]\ndbpool_name = 'p'\ntable_name='x'\n[services.a_b]\ndbpool_name = 'p'\ntable_name='y'",
            ),
            &["SYNC_CONFIG_A_B_", "two meanings"],
        ),
        (service("heartbeat = '5m'"), &["<text>:4", "heartbeat"]),
        (
            format!("{pool}channel = 'x'\n[services.a]"),
            &["<text>:3", "channel", "put it into the services"],
        ),
        (pool.to_owned(), &["declares no service"]),
        (
            format!("migrate = true\n{pool}[services.a]"),
            &["<text>:1", "migrate", "[services.<name>]"],
        ),
        (
            "[servces.a]\n[pools.p]\n[services.b]".to_owned(),
            &["<text>:1", "did you mean services?"],
        ),
        (
            "[services]\na = 1".to_owned(),
            &["<text>:2", "[services.a]"],
        ),
        (
            "services = 1".to_owned(),
            &["<text>:1", "[services.<name>]"],
        ),
        ("[services.'ä b']".to_owned(), &["<text>:1", "ASCII"]),
        (
            "[services.a]\n[pools.p]\ndbpool_name = 'p'".to_owned(),
            &["<text>:3", "only a service"],
        ),
        (
            format!(
                "[pools.q]\ndatabase_url = 'postgres://u:hunter2@h/d'\n{pool}[services.a]\ndbpool_name = 'p'\n[services.b]\ndbpool_name = 'q'"
            ),
            &["services a and b"],
        ),
    ] {
        let name = Some("a").filter(|_| !text.contains("frob"));
        refused(layered(&text, name, &[]), words);
    }
    refused(
        layered(SEVERAL, None, &[]),
        &["<text>", "config-service, users", "--service"],
    );
    refused(
        layered(SEVERAL, Some("user"), &[]),
        &["\"user\"", "did you mean users?"],
    );
    refused(
        layered("migrate = true", Some("users"), &[]),
        &["\"users\"", "single service"],
    );
}

#[test]
fn with_several_services_a_variable_speaks_of_one_section() {
    let variables = [
        ("SYNC_CONFIG_USERS_TABLE_NAME", "users_config"),
        ("SYNC_CONFIG_POOL_MY_DB_POOL_MAX_CONNECTIONS", "3"),
        ("SYNC_CONFIG_CHECK_INTERVAL", "7s"),
        ("SYNC_CONFIG_USERS_CHECK_INTERVAL", "9s"),
        // The pool has an address: this one is the application's.
        ("DATABASE_URL", "postgres://u:hunter2@elsewhere/d"),
        ("LISTEN_DATABASE_URL", "postgres://u:hunter2@elsewhere/d"),
    ];
    let users = layered(SEVERAL, Some("users"), &variables).unwrap();
    let config = layered(SEVERAL, Some("config-service"), &variables).unwrap();
    assert_eq!(
        (value(&users, "table_name"), value(&config, "table_name")),
        ("users_config".to_owned(), "app_config".to_owned())
    );
    assert_eq!(
        (
            value(&users, "check_interval"),
            value(&config, "check_interval")
        ),
        ("9s".to_owned(), "7s".to_owned())
    );
    for layers in [&users, &config] {
        assert_eq!(value(layers, "max_connections"), "3");
        assert_eq!(
            source(layers, "max_connections"),
            "SYNC_CONFIG_POOL_MY_DB_POOL_MAX_CONNECTIONS"
        );
        assert_eq!(value(layers, "database_url"), "postgres://u:…@h/d");
        assert_eq!(value(layers, "listen_database_url"), "");
    }
    let open = "[pools.p]\n[services.a]\ndbpool_name = 'p'";
    let layers = layered(open, None, &variables[4..]).unwrap();
    assert_eq!(source(&layers, "database_url"), "DATABASE_URL");
    assert_eq!(
        source(&layers, "listen_database_url"),
        "LISTEN_DATABASE_URL"
    );
    let own = [
        ("SYNC_CONFIG_POOL_P_DATABASE_URL", "postgres://u@own/d"),
        variables[4],
    ];
    let layers = layered(open, None, &own).unwrap();
    assert_eq!(value(&layers, "database_url"), "postgres://u@own/d");
}

#[test]
fn no_variable_points_two_services_at_one_table() {
    for name in ["TABLE_NAME", "SCHEMA", "CHANNEL"] {
        let plain = format!("SYNC_CONFIG_{name}");
        refused(
            layered(SEVERAL, Some("users"), &[(&plain, "x")]),
            &[&plain, &format!("SYNC_CONFIG_CONFIG_SERVICE_{name}")],
        );
    }
    let both = [
        ("SYNC_CONFIG_USERS_TABLE_NAME", "app_config"),
        ("SYNC_CONFIG_USERS_SCHEMA", "public"),
    ];
    refused(
        layered(SEVERAL, Some("users"), &both),
        &["config-service and users", "app_config"],
    );
    let apart = "[services.a]\n[services.b]";
    let address = [("DATABASE_URL", "postgres://u:hunter2@h/d")];
    refused(layered(apart, Some("a"), &address), &["services a and b"]);
    let unknown = [("SYNC_CONFIG_USER_TABLE_NAME", "x")];
    refused(
        layered(SEVERAL, Some("users"), &unknown),
        &[
            "SYNC_CONFIG_USER_TABLE_NAME",
            "SYNC_CONFIG_USERS_TABLE_NAME",
        ],
    );
    let of_pool = [("SYNC_CONFIG_USERS_DATABASE_URL", "postgres://u:hunter2@h/d")];
    refused(
        layered(SEVERAL, Some("users"), &of_pool),
        &["SYNC_CONFIG_USERS_DATABASE_URL"],
    );
}
