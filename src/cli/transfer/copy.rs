//! `sync-config copy`: the entries of one store, moved to another of whichever kind.

use std::fmt;
use std::path::Path;

use super::plan::{Counts, Plan, Wanted};
use super::progress::{Progress, counted};
use super::{Present, apply, folded, read, read_or_make, verify};
use crate::cli::Failure;
use crate::cli::out::{print, print_json};
use crate::cli::place::Hidden;
use crate::core::{Revision, shown};
use crate::service::describe;
use crate::settings::Settings;

/// Copies the entries of one store to another, in one revision there, and compares the checksums of both.
///
/// Keys and values are copied, not the journal, revisions, consumers or API keys (which are a store of their own, in the table of
/// that name with _keys behind it: --table). The target is made if it is not there. It has to be
/// empty or to hold the same entries, unless --overwrite, --delete-extra or --keep-extra say otherwise. Entries that somebody
/// writes to the target meanwhile are never overwritten: nothing is written then (exit code 4).
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Copy {
    /// The store to read; without it that of the other commands (--url, DATABASE_URL …). @FILE reads the URL from a file.
    #[arg(long, value_name = "URL")]
    from: Option<Hidden>,
    /// The store to write, as postgres://user@host:5432/database or sqlite:/path/of/file.db. @FILE reads it from a file.
    #[arg(long, value_name = "URL")]
    to: Hidden,
    /// The target's table; without it that of the source.
    #[arg(long, value_name = "NAME")]
    to_table: Option<String>,
    /// The target's schema; without it that of the settings.
    #[arg(long, value_name = "NAME")]
    to_schema: Option<String>,
    /// Only keys that begin with this; others of the target are left alone.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Replaces the target's values where they differ.
    #[arg(long)]
    overwrite: bool,
    /// Deletes the keys that only the target has.
    #[arg(long, conflicts_with = "keep_extra")]
    delete_extra: bool,
    /// Leaves the keys that only the target has.
    #[arg(long)]
    keep_extra: bool,
    /// Writes nothing, and says what would be.
    #[arg(long)]
    dry_run: bool,
    /// Prints JSON: {"from", "to", "unchanged", "added", "replaced", "deleted", "kept", "revision", "checksum", "dryRun"}.
    #[arg(long)]
    json: bool,
    /// Says nothing on stderr while it works.
    #[arg(long, short)]
    quiet: bool,
}

impl Copy {
    /// Whether it finds both stores by itself.
    pub(in crate::cli) fn names_both(&self) -> bool {
        self.from.is_some()
    }
}

pub(in crate::cli) async fn copy(settings: Settings, copy: Copy) -> Result<(), Failure> {
    let progress = Progress { quiet: copy.quiet };
    let (source, target) = stores(&settings, &copy)?;
    let from = read(&source).await?;
    let entries = from.snapshot.prefixed(&copy.prefix);
    progress.say(format_args!(
        "read {} at revision {} from {}",
        counted(entries.len(), "entry"),
        from.snapshot.revision(),
        from.store
    ));
    let to = read_or_make(&target, copy.dry_run).await?;
    let present = to.snapshot.prefixed(&copy.prefix);
    progress.say(format_args!(
        "the target has {} at revision {}: {}",
        counted(present.len(), "entry"),
        to.snapshot.revision(),
        to.store
    ));
    let wanted = entries.iter().map(|entry| Wanted {
        key: entry.key().clone(),
        value: entry.value().clone(),
    });
    let plan = Plan::new(wanted, present, copy.delete_extra);
    refuse(&plan, &copy)?;
    let mut done = Done {
        from: &from,
        to: &to,
        counts: plan.counts,
        revision: to.snapshot.revision(),
        checksum: folded(entries).to_string(),
        dry_run: copy.dry_run,
    };
    if !copy.dry_run {
        done.revision = apply(&target, &plan, &to.snapshot, progress).await?;
        progress.say("reading the target anew, to compare the checksums");
        let found = verify(&target, &plan, &copy.prefix, done.revision).await?;
        // With keys of its own the target's checksum is another one.
        done.checksum = found.to_string();
    }
    if copy.json {
        print_json(done.as_json())
    } else {
        done.to_string().lines().try_for_each(print)
    }
}

/// The settings of both stores.
fn stores(settings: &Settings, copy: &Copy) -> Result<(Settings, Settings), Failure> {
    let source = match &copy.from {
        Some(url) => named(settings, "--from", url)?,
        None => settings.clone(),
    };
    let mut target = named(settings, "--to", &copy.to)?;
    if let Some(table) = &copy.to_table {
        target = target.with("table_name", table)?;
    }
    if let Some(schema) = &copy.to_schema {
        target = target.with("schema", schema)?;
    }
    target.check()?;
    let same = describe(&source)? == describe(&target)? && source.schema == target.schema;
    if same {
        return Err(Failure::Usage(
            "--from and --to name the same table".to_owned(),
        ));
    }
    Ok((source, target))
}

/// The settings of a store that an argument names. What else the settings say of an address is another one's.
fn named(settings: &Settings, flag: &'static str, url: &Hidden) -> Result<Settings, Failure> {
    let url = match url.0.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(Path::new(path)).map_err(|error| {
            let path = shown(path).to_string();
            Failure::Usage(format!("{flag} @{path}: the file cannot be read: {error}"))
        })?,
        None => url.0.clone(),
    };
    let settings = Settings {
        database_url: Some(url.trim().to_owned()),
        listen_database_url: None,
        ..settings.clone()
    };
    let checked = settings.check();
    checked.map_err(|error| Failure::Usage(format!("{flag}: {error}")))?;
    Ok(settings)
}

/// Refuses to take away what the target has, unless that was asked for.
fn refuse(plan: &Plan, copy: &Copy) -> Result<(), Failure> {
    /// Keys that are named.
    const NAMED: usize = 5;
    let Counts {
        replaced, spared, ..
    } = plan.counts;
    let mut problems = Vec::new();
    if replaced > 0 && !copy.overwrite {
        problems.push(format!(
            "{} of the target {} another value (--overwrite replaces them)",
            counted(replaced, "key"),
            if replaced == 1 { "has" } else { "have" }
        ));
    }
    if spared > 0 && !copy.keep_extra {
        let first: Vec<&str> = plan.spared().take(NAMED).map(|key| key.as_str()).collect();
        let more = if spared > NAMED { " …" } else { "" };
        problems.push(format!(
            "the target alone has {}: {}{more} (--delete-extra deletes them, --keep-extra leaves them)",
            counted(spared, "key"),
            first.join(", ")
        ));
    }
    if problems.is_empty() || copy.dry_run {
        return Ok(());
    }
    Err(Failure::Unexpected(format!(
        "nothing was copied: {}",
        problems.join("; ")
    )))
}

/// What was done, or would be.
struct Done<'a> {
    from: &'a Present,
    to: &'a Present,
    counts: Counts,
    revision: Revision,
    checksum: String,
    dry_run: bool,
}

impl Done<'_> {
    fn as_json(&self) -> serde_json::Value {
        let side = |present: &Present| {
            serde_json::json!({
                "store": present.store,
                "revision": present.snapshot.revision(),
                "entries": present.snapshot.len(),
                "checksum": present.snapshot.checksum(),
            })
        };
        serde_json::json!({
            "from": side(self.from),
            "to": side(self.to),
            "unchanged": self.counts.unchanged,
            "added": self.counts.added,
            "replaced": self.counts.replaced,
            "deleted": self.counts.deleted,
            "kept": self.counts.spared,
            "revision": self.revision,
            "checksum": self.checksum,
            "dryRun": self.dry_run,
        })
    }
}

impl fmt::Display for Done<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            unchanged,
            added,
            replaced,
            spared,
            deleted,
        } = self.counts;
        writeln!(f, "from     {}", self.from.store)?;
        writeln!(f, "to       {}", self.to.store)?;
        let would = if self.dry_run { "would be " } else { "" };
        writeln!(
            f,
            "entries  {added} {would}added, {replaced} {would}replaced, {deleted} {would}deleted; {unchanged} equal, {spared} only in the target"
        )?;
        if self.dry_run {
            write!(
                f,
                "checksum {} of what would be copied; nothing was written",
                self.checksum
            )
        } else {
            let (revision, checksum) = (self.revision, &self.checksum);
            let whose = if spared == 0 {
                "both"
            } else {
                "the target, as expected"
            };
            write!(
                f,
                "checksum {checksum} of {whose}; the target is at revision {revision}"
            )
        }
    }
}
