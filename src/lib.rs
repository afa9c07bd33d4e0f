//! placeholder
#![forbid(unsafe_code)]
mod core;
