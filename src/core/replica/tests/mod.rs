//! The replica against a reference database under random faults, and in scripts of a few steps.

mod checks;
mod faults;
mod following;
mod forking;
mod model;
mod reference;
mod repairing;
mod restoring;
mod script;
mod storms;
mod world;
