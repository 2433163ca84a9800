//! Martis Gateway: an API-key gateway. Every request's key is looked up in memory, decided in under a microsecond, and the
//! request is streamed on to its upstream or refused.
//!
//! # The map, in reading order
//! - [`access`]: who may pass, as values and functions. Pure, and knows nothing of the rest.
//! - [`index`]: the keys in memory, from the digest of a secret to the record that the decision needs.
//! - [`gate`]: from the head of a request to a permit or a refusal; and from a refusal to its reply.
//! - [`proxy`]: the data plane: listeners, workers, the path of one request, upstream connections, tunnels.
//! - [`store`]: the truth, in SQLite: keys, accounts, audit log, nodes. [`sync`]: from the store to the index, and the
//!   snapshot that a node starts from when the store is away.
//! - [`keyring`]: what can be done to keys, each with its line in the audit log. [`cli`]: the same for people and scripts.
//! - [`config`], [`clock`], [`drain`], [`tls`], [`telemetry`], [`health`]: what everybody needs. [`app`] puts all together.
//!
//! # The path of a request
//! ```text
//! proxy/listener -> proxy/mod (handle) -> gate -> index -> access/decide --Permit--> proxy/forward -> proxy/upstream
//!                                                               \______ Refusal ____________________> gate/reply
//! ```
//! For HTTP/1 the raw head has passed `proxy/http1_guard` before: it refuses what a lenient parser would let through. Up to
//! the decision everything is a plain function: nothing is awaited, written or locked but the one part of the index that
//! holds the key. A refusal is answered out of the request's own field map and a buffer of the worker's.
//!
//! # What always holds
//! - Only [`access::decide::decide`] makes a [`Permit`](access::decide::Permit), and only a permit can be forwarded.
//! - There is one [`IndexWriter`](index::IndexWriter), and [`sync`] owns it. A failed load swaps nothing.
//! - Secrets are types without a way to be printed or stored; what is stored, indexed and sent is their digest.
//! - What cannot be decided is refused, and trouble of ours is a 5xx.
//! - Nobody calls back up: `tests/layering.rs` holds the arrows between the modules.

pub mod access;
pub mod app;
pub mod cli;
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
