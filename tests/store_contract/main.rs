//! What every store must do, whatever stands behind it, and what the keyring makes of it.
//!
//! Cases ask for a store from [`support::TestStore`] and know nothing else of it; `opening` alone is about SQLite's file.

#![allow(clippy::unwrap_used, reason = "a failure here is the end of a test")]

mod accounts;
mod audit;
mod changes;
mod import;
mod keys;
mod model;
mod nodes;
mod opening;
mod support;
