//! Who may pass: the rules as values and functions.
//!
//! Pure. No async, no I/O, no clock, no logging, no globals, and no import of any other module of this crate: time and
//! randomness come in as arguments, so each rule is tested without a socket, a store or a sleep. [`decide::decide`] is the
//! one place where a [`decide::Permit`] is made.

pub mod address;
pub mod decide;
pub mod denial;
pub mod id;
pub mod key;
pub mod path;
pub mod permission;
pub mod rate;
pub mod route;
pub mod secret;
pub mod time;
