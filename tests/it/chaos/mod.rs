//! Several processes on one PostgreSQL, faults of every kind, and a checker that proves the contract from what was recorded.

mod checker;
mod history;
