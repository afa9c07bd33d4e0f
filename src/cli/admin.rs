//! The schema and the epoch.

use super::Failure;
use super::args::Migrate;
use super::out::{plain, print, print_json, say};
use crate::keys;
use crate::settings::Settings;
use crate::store::postgres::admin::Admin;

pub(super) async fn migrate(settings: Settings, options: &Migrate) -> Result<(), Failure> {
    let settings = if options.keys {
        keys::settings(&settings)?
    } else {
        settings
    };
    if options.print {
        return plain(Admin::script(&settings).await?);
    }
    let admin = Admin::new(&settings)?;
    if options.uninstall {
        let table = admin.uninstall().await?;
        return print(format_args!(
            "{table}: everything beside the table was removed; its rows are still there"
        ));
    }
    let (table, migrated) = admin.migrate().await?;
    if migrated.adopted {
        print(format_args!("{table}: adopted, with the rows it has"))?;
    }
    for name in &migrated.applied {
        print(format_args!("{table}: applied {name}"))?;
    }
    if let Some(trigger) = &migrated.replaced_trigger {
        print(format_args!(
            "{table}: dropped trigger {trigger}, which put values into notifications"
        ))?;
    }
    if migrated.applied.is_empty() {
        print(format_args!("{table}: up to date"))?;
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

pub(super) async fn new_epoch(settings: Settings) -> Result<(), Failure> {
    let (old, new) = Admin::new(&settings)?.new_epoch().await?;
    say(format_args!(
        "a new epoch has begun; instances and watchers load anew"
    ));
    print_json(serde_json::json!({ "old": old, "new": new }))
}
