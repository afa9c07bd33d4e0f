//! Integration tests: one crate, so that there is one thing to link and one server to start.

mod support;
mod support_proxy;
mod support_self;
