//! The replica against a reference database under random faults, and in scripts of a few steps.

mod model;
mod reference;
mod storms;
mod world;
