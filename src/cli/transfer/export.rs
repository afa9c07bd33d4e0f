//! `sync-config export`: the entries of a store as a file that people can read, keep and change.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::document::Format;
use super::progress::{Progress, counted};
use super::{folded, read};
use crate::cli::Failure;
use crate::cli::out::print_json;
use crate::core::shown_json;
use crate::settings::Settings;

/// Writes the entries to a file, or to stdout, as JSON or TOML: an object of keys and values, all of one revision.
///
/// A file is replaced whole, and only its owner may read it. Numbers keep their text. What TOML cannot hold (null, integers
/// beyond 64 bits) is refused with its key.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Export {
    /// The file; `-` is stdout.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// How to write; without it what the file's name ends in says, else JSON.
    #[arg(long)]
    format: Option<Format>,
    /// Only keys that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Prints {"file", "store", "revision", "entries", "checksum"} of a written file.
    #[arg(long)]
    json: bool,
    /// Says nothing on stderr.
    #[arg(long, short)]
    quiet: bool,
}

pub(in crate::cli) async fn export(settings: Settings, export: Export) -> Result<(), Failure> {
    let progress = Progress {
        quiet: export.quiet,
    };
    let to_stdout = export.file.as_os_str() == "-";
    if to_stdout && export.json {
        return Err(Failure::Usage(
            "--json needs a file: stdout takes the entries".to_owned(),
        ));
    }
    let format = Format::of(export.format, &export.file);
    let present = read(&settings).await?;
    let entries = present.snapshot.prefixed(&export.prefix);
    let text = format.write(entries)?;
    if to_stdout {
        match format {
            Format::Json => written(&shown_json(&text))?,
            // All that a terminal would obey is escaped.
            Format::Toml => written(&text)?,
        }
    } else {
        replace(&export.file, &text)?;
    }
    let (revision, checksum) = (present.snapshot.revision(), folded(entries));
    progress.say(format_args!(
        "exported {} at revision {revision}, checksum {checksum}, from {}",
        counted(entries.len(), "entry"),
        present.store
    ));
    if export.json {
        return print_json(serde_json::json!({
            "file": export.file.to_string_lossy(),
            "store": present.store,
            "revision": revision,
            "entries": entries.len(),
            "checksum": checksum,
        }));
    }
    Ok(())
}

/// Writes to stdout, with the line breaks that it has.
fn written(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let done = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    done.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::Other(format!("stdout cannot be written to: {error}")),
    })
}

/// Puts a file in the place of that of this name, whole or not at all. It holds every value: nobody else may read it.
fn replace(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Other(format!("{} cannot be written: {error}", file.display()))
    };
    let Some(name) = file.file_name() else {
        return Err(Failure::Usage(format!("{} names no file", file.display())));
    };
    let mut beside = name.to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = file.with_file_name(beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut new = options.open(&beside).map_err(failed)?;
    let done = new
        .write_all(text.as_bytes())
        .and_then(|()| new.sync_all())
        .and_then(|()| std::fs::rename(&beside, file));
    done.map_err(|error| {
        // What is left of it is of no use; that it cannot be removed is no news.
        std::fs::remove_file(&beside).ok();
        failed(error)
    })
}
