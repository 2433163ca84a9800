//! The gateway as a library; `main` is the binary over it.

pub mod access;
pub mod app;
pub mod clock;
pub mod config;
pub mod drain;
pub mod gate;
pub mod health;
pub mod index;
pub mod keyring;
pub mod proxy;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod tls;
