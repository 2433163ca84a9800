//! The command line from outside: the program itself, run as people and scripts run it, with a store on the disk. A file for
//! each group of commands; every test is a sentence about what somebody sees.

#![allow(clippy::unwrap_used, reason = "the functions below the tests are tests, too")]

mod accounts_and_nodes;
mod check;
mod demo;
mod deployments;
mod explain;
mod help;
mod keys;
mod machine;
mod serve;
mod snapshot;
mod transfer;
