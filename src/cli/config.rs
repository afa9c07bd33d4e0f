//! `sync-config config`: the settings of this program, not the entries of the table.

use serde_json::{Value, json};

use super::Failure;
use super::args::Config;
use super::out::{print, print_json};
use super::place::Place;
use crate::core::shown;
use crate::service::describe;
use crate::settings::{Layers, Setting};

pub(super) fn config(place: &Place, command: &Config) -> Result<(), Failure> {
    let services = place.every()?;
    match command {
        Config::Print { json: true } => {
            let services: Vec<Value> = services.iter().map(as_json).collect();
            print_json(format_args!("{:#}", Value::Array(services)))
        }
        Config::Print { json: false } => services.iter().try_for_each(print_one),
        Config::Check { json: true } => {
            let services: Result<Vec<Value>, Failure> = services.iter().map(checked).collect();
            print_json(Value::Array(services?))
        }
        Config::Check { json: false } => services.iter().try_for_each(check),
    }
}

fn as_json((service, layers): &(Option<String>, Layers)) -> Value {
    let setting = |Setting {
                       name,
                       value,
                       origin,
                       ..
                   }: Setting| {
        let source = json!({ "kind": origin.kind(), "place": origin.to_string() });
        json!({ "name": name, "value": value, "source": source })
    };
    let settings: Vec<Value> = layers.iter().map(setting).collect();
    json!({ "service": service, "settings": settings })
}

fn print_one((service, layers): &(Option<String>, Layers)) -> Result<(), Failure> {
    if let Some(service) = service {
        print(format_args!("[{service}]"))?;
    }
    let rows: Vec<[String; 3]> = layers.iter().map(row).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let (name_width, value_width) = (width(0), width(1).max("VALUE".len()));
    print(format_args!(
        "{:<name_width$}  {:<value_width$}  SOURCE",
        "SETTING", "VALUE"
    ))?;
    for [name, value, source] in &rows {
        print(format_args!(
            "{name:<name_width$}  {value:<value_width$}  {source}"
        ))?;
    }
    Ok(())
}

fn row(setting: Setting) -> [String; 3] {
    let value = setting.value.unwrap_or_else(|| "-".to_owned());
    let value = shown(&value).to_string();
    [setting.name.to_owned(), value, setting.origin.to_string()]
}

fn checked((service, layers): &(Option<String>, Layers)) -> Result<Value, Failure> {
    let settings = layers.settings();
    let named = settings.database_url.is_some();
    let store = named.then(|| describe(settings)).transpose();
    let store = store.map_err(|error| layers.located(error))?;
    Ok(json!({ "service": service, "store": store, "schema": settings.schema }))
}

fn check((service, layers): &(Option<String>, Layers)) -> Result<(), Failure> {
    let place = match &layers.settings().database_url {
        Some(_) => describe(layers.settings()).map_err(|error| layers.located(error))?,
        None => "no database is given".to_owned(),
    };
    let schema = layers.settings().schema.as_deref();
    let schema = schema.map_or_else(String::new, |schema| format!(" in schema {schema}"));
    match service {
        Some(service) => print(format_args!("{service}: in order; {place}{schema}")),
        None => print(format_args!("in order; {place}{schema}")),
    }
}
