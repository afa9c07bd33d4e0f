//! Histories made up: good ones pass, and each fault is named by its guarantee.
