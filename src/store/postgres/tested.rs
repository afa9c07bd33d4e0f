//! What the properties of rows and addresses need of this store.

use super::address::Target;
use super::dsn::Parts;
use super::paging::{Pace, Paging};
use super::rows::{self, Columns};
use crate::core::replica::Page;
use crate::core::{Cursor, Revision};
use crate::error::Result;
use crate::settings::Settings;
use crate::store::Recorded;

/// A column of a row that no database sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bits(u128),
    Moment(i64),
    /// Of a type that nobody expects.
    Strange,
}

impl Columns for Vec<Cell> {
    fn text(&self, column: usize) -> Option<Option<&str>> {
        match self.get(column)? {
            Cell::Null => Some(None),
            Cell::Text(text) => Some(Some(text)),
            _ => None,
        }
    }

    fn number(&self, column: usize) -> Option<Option<i64>> {
        match self.get(column)? {
            Cell::Null => Some(None),
            Cell::Number(number) => Some(Some(*number)),
            _ => None,
        }
    }

    fn bits(&self, column: usize) -> Option<Option<u128>> {
        match self.get(column)? {
            Cell::Null => Some(None),
            Cell::Bits(bits) => Some(Some(*bits)),
            _ => None,
        }
    }

    fn micros(&self, column: usize) -> Option<i64> {
        match self.get(column)? {
            Cell::Null => Some(0),
            Cell::Moment(micros) => Some(*micros),
            _ => None,
        }
    }
}

pub(crate) fn page(after: Revision, rows: &[Vec<Cell>]) -> Option<Page> {
    let mut paging = Paging::after(after);
    for row in rows {
        paging.row(row)?;
    }
    paging.end(&Pace::default())
}

pub(crate) fn history(after: Cursor, rows: &[Vec<Cell>]) -> Option<Vec<Recorded>> {
    rows::history(after, rows)
}

/// What an address leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Understood {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) database: Option<String>,
    pub(crate) application: Option<String>,
    /// As people are told of it.
    pub(crate) described: String,
}

/// Parses an address as a connection would; `None` when it names files, which would be read.
pub(crate) fn understood(address: &str) -> Option<Result<Understood>> {
    let files = ["sslrootcert", "sslcert", "sslkey"];
    if Parts::of(address).is_ok_and(|parts| files.iter().any(|file| parts.own(file).is_some())) {
        return None;
    }
    let target = Target::parse("database_url", address, &Settings::default());
    Some(target.map(|target| Understood {
        user: target.config.get_user().map(str::to_owned),
        password: target.config.get_password().map(<[u8]>::to_vec),
        database: target.config.get_dbname().map(str::to_owned),
        application: target.config.get_application_name().map(str::to_owned),
        described: target.describe(),
    }))
}
