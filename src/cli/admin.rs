//! The schema and the epoch, of whichever store the URL names.

use super::Failure;
use super::args::Migrate;
use super::out::{plain, print, print_json, say};
use crate::keys;
#[cfg(feature = "sqlite")]
use crate::runtime::Clock;
use crate::settings::{Settings, StoreUrl};
use crate::store::postgres::admin::Admin;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::admin::Admin as FileAdmin;

pub(super) async fn migrate(settings: Settings, options: &Migrate) -> Result<(), Failure> {
    let settings = if options.keys {
        keys::settings(&settings)?
    } else {
        settings
    };
    match settings.store_url()? {
        None | Some(StoreUrl::Postgres) => migrate_database(&settings, options).await,
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(_)) if options.print => plain(FileAdmin::script(&settings)),
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => {
            let admin = file_admin(&settings, &path)?;
            let done = migrate_file(&admin, options).await;
            admin.close().await;
            done
        }
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(_)) => Err(elsewhere("migrate")),
    }
}

/// What only the machine that has the store can do.
#[cfg(feature = "remote")]
fn elsewhere(command: &str) -> Failure {
    Failure::Usage(format!(
        "`{command}` changes a database or a file, and the URL names a server; give --url of what that one stands on"
    ))
}

pub(super) async fn new_epoch(settings: Settings) -> Result<(), Failure> {
    let (old, new) = match settings.store_url()? {
        None | Some(StoreUrl::Postgres) => Admin::new(&settings)?.new_epoch().await?,
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => {
            let admin = file_admin(&settings, &path)?;
            let begun = admin.new_epoch().await;
            admin.close().await;
            begun?
        }
        #[cfg(feature = "remote")]
        Some(StoreUrl::Remote(_)) => return Err(elsewhere("new-epoch")),
    };
    say(format_args!(
        "a new epoch has begun; instances and watchers load anew"
    ));
    print_json(serde_json::json!({ "old": old, "new": new }))
}

async fn migrate_database(settings: &Settings, options: &Migrate) -> Result<(), Failure> {
    if options.print {
        return plain(Admin::script(settings).await?);
    }
    let admin = Admin::new(settings)?;
    if options.uninstall {
        return removed(&admin.uninstall().await?, options.json);
    }
    let (table, migrated) = admin.migrate().await?;
    if options.json {
        return print_json(serde_json::json!({
            "table": table,
            "adopted": migrated.adopted,
            "applied": migrated.applied,
            "replacedTrigger": migrated.replaced_trigger,
            "outOfBounds": { "total": migrated.out_of_bounds_total, "keys": migrated.out_of_bounds },
        }));
    }
    told(&table, migrated.adopted, &migrated.applied)?;
    if let Some(trigger) = &migrated.replaced_trigger {
        print(format_args!(
            "{table}: dropped trigger {trigger}, which put values into notifications"
        ))?;
    }
    if migrated.out_of_bounds_total > 0 {
        let total = migrated.out_of_bounds_total;
        say(format_args!(
            "{table}: {total} rows are beyond the bounds of key or value; they are served, but an update has to make them fit:"
        ));
        for key in &migrated.out_of_bounds {
            say(format_args!("  {}", key));
        }
    }
    Ok(())
}

#[cfg(feature = "sqlite")]
async fn migrate_file(admin: &FileAdmin, options: &Migrate) -> Result<(), Failure> {
    if options.uninstall {
        return removed(&admin.uninstall().await?, options.json);
    }
    let (table, migrated) = admin.migrate().await?;
    if options.json {
        let hidden = migrated.hidden.iter();
        let hidden =
            hidden.map(|(key, problem)| serde_json::json!({ "key": key, "problem": problem }));
        return print_json(serde_json::json!({
            "table": table,
            "adopted": migrated.adopted,
            "applied": migrated.applied,
            "restoredTriggers": migrated.restored,
            "hidden": hidden.collect::<Vec<_>>(),
        }));
    }
    told(&table, migrated.adopted, &migrated.applied)?;
    for trigger in &migrated.restored {
        print(format_args!("{table}: made trigger {trigger} again"))?;
    }
    if !migrated.hidden.is_empty() {
        say(format_args!(
            "{table}: rows that can have no revision and are shown to nobody; put them right or delete them:"
        ));
        for (key, problem) in &migrated.hidden {
            say(format_args!("  {key}: {problem}"));
        }
    }
    Ok(())
}

#[cfg(feature = "sqlite")]
fn file_admin(settings: &Settings, path: &std::path::Path) -> Result<FileAdmin, Failure> {
    Ok(FileAdmin::new(settings, path, Clock::start().sources())?)
}

fn removed(table: &str, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(serde_json::json!({ "table": table, "removed": true }));
    }
    print(format_args!(
        "{table}: everything beside the table was removed; its rows are still there"
    ))
}

fn told(table: &str, adopted: bool, applied: &[impl std::fmt::Display]) -> Result<(), Failure> {
    if adopted {
        print(format_args!("{table}: adopted, with the rows it has"))?;
    }
    for name in applied {
        print(format_args!("{table}: applied {name}"))?;
    }
    if applied.is_empty() {
        print(format_args!("{table}: up to date"))?;
    }
    Ok(())
}
