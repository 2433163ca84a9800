//! The gateway as a library; `main` is the binary over it.

pub mod access;
pub mod clock;
pub mod config;
pub mod gate;
pub mod index;
pub mod store;
pub mod sync;
pub mod telemetry;
