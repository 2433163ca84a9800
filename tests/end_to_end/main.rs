//! The gateway from outside: real sockets, the program that `main` starts, a store on the disk. A file for each surface; every
//! test is a sentence about what somebody sees. All of them share this one binary and run side by side.

#![allow(clippy::unwrap_used, reason = "the functions below the tests are tests, too")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod client_address;
mod decisions;
mod forwarding;
mod framing;
mod grpc;
mod key_changes;
mod limits;
mod liveness;
mod random_changes;
mod regression;
mod secrecy;
mod tls;
mod upgrades;
mod upstream_faults;
mod wire_regressions;
