//! Addresses of databases.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{SECRET, Target, assert_secret, unseen};
use crate::settings::{Layers, Settings};
use crate::store::postgres::tested::{Understood, understood};

pub(super) const ADDRESS: Target = Target {
    name: "address",
    holds,
    words: &[
        "postgres://",
        "postgresql://",
        "u",
        ":",
        "hunter2",
        "@",
        "h",
        ":5432",
        ":0",
        "/",
        "d",
        "?",
        "&",
        "sslmode=",
        "disable",
        "require",
        "application_name=",
        "user=",
        "password=",
        "host=",
        "hostaddr=127.0.0.1",
        "options=-c%20x",
        "connect_timeout=",
        "target_session_attrs=any",
        "%40",
        "%",
        "%ff",
        "%00",
        "[::1]",
        "[fe80::1%25eth0]",
        ",",
        "'",
        "\\",
        " ",
        "=",
        "|",
        "\u{202e}",
        "%e2%80%ae",
        "%1b",
        "\u{1b}",
        "\n",
        "=hunter2",
        "sslcrl=",
    ],
};

/// An address is understood as it was written or refused, and its password is never shown.
fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    anything(text);
    // The parts of one that is written as it has to be, with `|` between them.
    let mut parts = text.splitn(4, '|');
    let mut part = || parts.next().filter(|part| !part.contains('\0'));
    let user = part().filter(|user| !user.is_empty()).unwrap_or("u");
    let (password, database) = (part().unwrap_or("p"), part().unwrap_or("d"));
    let application = part().unwrap_or("a");
    as_a_url(user, password, database, application);
    as_words(user, password, database, application);
    // Whatever stands around a password, it is a part of it.
    let around = format!("postgres://u:{text}{SECRET}{text}@h:5432/d");
    let (shown, errors) = told(&around);
    let named = understood(&around).and_then(Result::ok);
    let named = named.filter(|_| errors.is_empty()).map(|it| it.described);
    for said in errors.iter().chain([&shown]).chain(&named) {
        assert!(!said.contains(SECRET), "{around:?}: {said}");
    }
}

/// What is shown of an address, and why it is refused.
fn told(text: &str) -> (String, Vec<String>) {
    let settings = Settings::new(text);
    let checked = settings.check();
    let layers = Layers::new(settings);
    let setting = layers.iter().find(|setting| setting.name == "database_url");
    let shown = setting
        .and_then(|setting| setting.value)
        .expect("it was set");
    let parsed = understood(text).and_then(Result::err);
    let errors = checked.err().into_iter().chain(parsed);
    let errors = errors.map(|error| {
        assert!(error.is_invalid_input());
        error.to_string()
    });
    (shown, errors.collect())
}

fn anything(text: &str) {
    let (shown, errors) = told(text);
    assert!(!shown.contains(unseen), "{shown:?}");
    for said in &errors {
        assert!(said.contains("database_url"), "{said}");
        assert_secret(said);
    }
    if Settings::new(text).check().is_err() {
        assert_eq!(shown, "…", "what is not understood is not shown");
    }
    if let Some(Ok(understood)) = understood(text) {
        let told = understood.described;
        assert!(!told.contains(unseen), "{told:?}");
    }
}

fn as_a_url(user: &str, password: &str, database: &str, application: &str) {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let begin = format!("postgres://{}", encoded(user));
    let (database_, application_) = (encoded(database), encoded(application));
    let end = format!("@h:5432/{database_}?application_name={application_}");
    let text = format!("{begin}:{}{end}", encoded(password));
    let (shown, errors) = told(&text);
    assert!(errors.is_empty(), "{text}: {errors:?}");
    assert_eq!(shown, format!("{begin}:…{end}"));
    check(&text, user, password, database, application);
}

fn as_words(user: &str, password: &str, database: &str, application: &str) {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let [user_, password_] = [user, password].map(quoted);
    let [database_, application_] = [database, application].map(quoted);
    let text = format!(
        "user={user_} host=h password={password_} dbname={database_} application_name={application_}"
    );
    let (shown, errors) = told(&text);
    let elsewhere = [user, database, application]
        .iter()
        .any(|part| part.contains(SECRET));
    assert!(elsewhere || !shown.contains(SECRET), "{text}: {shown}");
    // A URL takes those, percent-encoded. What looks like a URL is read as one.
    if text.contains(unseen) || text.contains("://") {
        return;
    }
    assert!(errors.is_empty(), "{text}: {errors:?}");
    check(&text, user, password, database, application);
}

fn check(text: &str, user: &str, password: &str, database: &str, application: &str) {
    let found = understood(text)
        .expect("no file is named")
        .expect("nothing is wrong");
    let expected = Understood {
        user: Some(user.to_owned()),
        password: Some(password.as_bytes().to_vec()),
        database: Some(database.to_owned()).filter(|name| !name.is_empty()),
        application: Some(application.to_owned()),
        described: found.described.clone(),
    };
    let found = Understood {
        database: found.database.clone().filter(|name| !name.is_empty()),
        ..found
    };
    assert_eq!(found, expected, "{text}");
}
