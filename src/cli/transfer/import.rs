//! `sync-config import`: the entries of a file, written to a store.

use std::io::Read;
use std::path::PathBuf;

use super::document::Format;
use super::plan::{Counts, Plan, Step};
use super::progress::{Progress, counted};
use super::{MOST_BYTES, apply, read_or_make, verify};
use crate::cli::Failure;
use crate::cli::out::{plain, print};
use crate::core::{Entry, Revision, shown, shown_json};
use crate::settings::Settings;

/// Writes the entries of a file (JSON or TOML, as `export` writes them) to the store: only what differs, in one revision.
///
/// Prints the differences first. A key that somebody else changes meanwhile is never overwritten: nothing is written then
/// (exit code 4). Keys that the file does not have stay, unless --delete-missing is given.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Import {
    /// The file; `-` is stdin.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How it is written; without it what the file's name ends in says, else JSON.
    #[arg(long)]
    format: Option<Format>,
    /// Only keys that begin with this, of the file and of the store.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Deletes the store's keys that the file does not have.
    #[arg(long)]
    delete_missing: bool,
    /// Writes nothing, and prints what would be changed.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Prints JSON instead: {"changes": [{"key", "kind", "old", "new"}], "added", "replaced", "deleted", "unchanged",
    /// "kept", "revision", "checksum", "dryRun"}.
    #[arg(long)]
    json: bool,
    /// Says nothing on stderr while it works.
    #[arg(long, short)]
    quiet: bool,
}

/// A value is cut in a line of the difference after so many characters; `--json` shows it whole.
const SHOWN: usize = 60;

pub(in crate::cli) async fn import(settings: Settings, import: Import) -> Result<(), Failure> {
    let progress = Progress {
        quiet: import.quiet,
    };
    let name = match import.file.as_os_str().to_string_lossy() {
        name if name == "-" => "stdin".to_owned(),
        name => name.into_owned(),
    };
    let text = read(&import.file, &name)?;
    let mut wanted = Format::of(import.format, &import.file).read(&name, &text)?;
    drop(text);
    let all = wanted.len();
    wanted.retain(|wanted| wanted.key.as_str().starts_with(&import.prefix));
    progress.say(format_args!("read {} from {name}", counted(all, "entry")));
    if wanted.len() < all {
        let others = counted(all - wanted.len(), "entry");
        progress.say(format_args!("left out {others} without the prefix"));
    }
    let present = read_or_make(&settings, import.dry_run).await?;
    let entries = present.snapshot.prefixed(&import.prefix);
    let plan = Plan::new(wanted, entries, import.delete_missing);
    if !import.json {
        plan.steps.iter().filter_map(line).try_for_each(print)?;
    }
    let mut revision = present.snapshot.revision();
    let mut checksum = plan.expected();
    if !import.dry_run {
        revision = apply(&settings, &plan, &present.snapshot, progress).await?;
        checksum = verify(&settings, &plan, &import.prefix, revision).await?;
    }
    let done = Done {
        plan: &plan,
        revision,
        checksum: checksum.to_string(),
        dry_run: import.dry_run,
    };
    if import.json {
        plain(shown_json(&done.as_json()))
    } else {
        print(done.as_text())
    }
}

fn read(file: &std::path::Path, name: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Usage(format!("{name} cannot be read: {error}"));
    // One byte more than a revision may have, so that a longer one is refused as too long.
    let bound = u64::try_from(MOST_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    if file.as_os_str() == "-" {
        let stdin = std::io::stdin().lock();
        stdin.take(bound + 1).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(file).map_err(failed)?;
        file.take(bound + 1).read_to_string(&mut text)
    }
    .map_err(failed)?;
    if text.len() > MOST_BYTES {
        return Err(Failure::Usage(format!(
            "{name} has more than {MOST_BYTES} bytes, which one revision cannot hold; split it"
        )));
    }
    Ok(text)
}

/// A difference for people: `+` what is new, `-` what goes, `~` what changes.
fn line(step: &Step) -> Option<String> {
    let old = |entry: &Entry| short(entry.as_json());
    Some(match step {
        Step::Keep(_) | Step::Spare(_) => return None,
        Step::Add(new) => format!("+ {} = {}", new.key, short(new.value.as_json())),
        Step::Delete(entry) => format!("- {} = {}", entry.key(), old(entry)),
        Step::Replace(entry, new) => {
            let new = short(new.value.as_json());
            format!("~ {}: {} -> {new}", entry.key(), old(entry))
        }
    })
}

fn short(json: &str) -> String {
    let text = shown(json).to_string();
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN - 1).chain(['…']).collect()
}

/// What was done, or would be.
struct Done<'a> {
    plan: &'a Plan,
    revision: Revision,
    checksum: String,
    dry_run: bool,
}

impl Done<'_> {
    fn as_text(&self) -> String {
        let Counts {
            unchanged,
            added,
            replaced,
            spared,
            deleted,
        } = self.plan.counts;
        let counts = format!(
            "{added} added, {replaced} replaced, {deleted} deleted; {unchanged} equal, {spared} only in the store"
        );
        let revision = self.revision;
        if self.dry_run {
            format!("would be: {counts}; nothing was written")
        } else {
            let checksum = &self.checksum;
            format!("{counts}; revision {revision}, checksum {checksum}")
        }
    }

    fn as_json(&self) -> String {
        let Counts {
            unchanged,
            added,
            replaced,
            spared,
            deleted,
        } = self.plan.counts;
        let changes: Vec<String> = self.plan.steps.iter().filter_map(Step::as_json).collect();
        let (changes, revision) = (changes.join(","), self.revision);
        let (checksum, dry_run) = (&self.checksum, self.dry_run);
        format!(
            "{{\"changes\":[{changes}],\"added\":{added},\"replaced\":{replaced},\"deleted\":{deleted},\
             \"unchanged\":{unchanged},\"kept\":{spared},\"revision\":{revision},\"checksum\":\"{checksum}\",\"dryRun\":{dry_run}}}"
        )
    }
}
