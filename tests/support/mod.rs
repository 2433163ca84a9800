//! What the end-to-end tests have in common: the gateway under test, the servers behind it, the clients before it, and waiting.
//!
//! Everything is the real thing: sockets on 127.0.0.1 with ports that the machine chooses, the program that `main` starts,
//! SQLite in a temporary folder, keys made beside the running node. Clients and servers are written on raw bytes and frames, so
//! that a test sees exactly what went over the wire, and can say what no library would.

pub mod gateway;
pub mod http1;
pub mod http2;
pub mod keys;
pub mod message;
pub mod tls;
pub mod upstream;
pub mod wait;
