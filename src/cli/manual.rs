//! What other programs are told about the command line: shells, and `man`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Failure;
use super::args::Args;
use super::out::plain;

const NAME: &str = "sync-config";

/// Prints the script with which a shell completes.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    text(script)
}

/// Prints the manual's page of a command, or of all.
pub(super) fn page(command: Option<&str>) -> Result<(), Failure> {
    let mut all = Args::command();
    all.build();
    let (title, page) = match command {
        None => (NAME.to_owned(), all),
        Some(name) => {
            let found = all.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no command {name:?}; see `sync-config --help`"
                ))
            })?;
            (format!("{NAME}-{name}"), found)
        }
    };
    let mut roff = Vec::new();
    let rendered = clap_mangen::Man::new(page).title(title).render(&mut roff);
    rendered.map_err(|error| Failure::Other(error.to_string()))?;
    text(roff)
}

fn text(bytes: Vec<u8>) -> Result<(), Failure> {
    plain(String::from_utf8_lossy(&bytes).trim_end())
}
