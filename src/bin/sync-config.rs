//! The program `sync-config`; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sync_config::cli::main()
}
