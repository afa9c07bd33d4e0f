//! What can be asked for of API keys.

use std::time::Duration;

use clap::Subcommand;

use crate::cli::keys::{lifetime, prefix};
use crate::keys::Role;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Keys {
    /// Makes a key for an identity that has none, and prints its token: once, on stdout.
    Create(CreateKey),
    /// Prints identity, id, times and rights of every key, and no secret.
    List {
        /// Prints JSON instead: [{"identity", "id", "role", "prefixes", "createdAt", "expiresAt", "expired"}].
        #[arg(long)]
        json: bool,
    },
    /// Makes a second key with the rights of the first, which goes on until it is revoked; prints its token.
    Rotate(RotateKey),
    /// Takes an identity's keys away. What they have open ends within a second, on every server.
    Revoke {
        /// Whose keys.
        identity: String,
        /// Only the key of this id.
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateKey {
    /// Whose key it is: 1 to 64 letters, digits and . _ - : @.
    pub(in crate::cli) identity: String,
    /// What it may do: a writer reads as well, an admin does everything.
    #[arg(long)]
    pub(in crate::cli) role: Role,
    /// Only keys that begin with this; several times, for several of them. Without it every key.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub(in crate::cli) prefix: Vec<String>,
    /// How long it lets somebody in, 90d for example; without it until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(in crate::cli) expires: Option<Duration>,
    /// How many requests a minute each server takes of it, instead of the server's own bound; 0 is any number.
    #[arg(long, value_name = "N")]
    pub(in crate::cli) requests_per_minute: Option<u32>,
    /// Prints JSON with the token in it.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RotateKey {
    /// Whose key is renewed.
    pub(in crate::cli) identity: String,
    /// How long the new key lets somebody in; without it as long as the old one was made for.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(in crate::cli) expires: Option<Duration>,
    /// How much longer the old key lets somebody in; without it until it expires or is revoked.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(in crate::cli) old_expires: Option<Duration>,
    /// Prints JSON with the token in it.
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
