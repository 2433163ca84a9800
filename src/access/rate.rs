//! What a rate says. The arithmetic that enforces it comes with the release that sets rates; the type stands here because the
//! configuration already reads it.

use std::num::NonZeroU32;

/// A limit on how often a key or an account may pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Requests a second, sustained.
    pub per_second: Option<NonZeroU32>,
    /// Requests that may come at once before `per_second` holds.
    pub burst: Option<NonZeroU32>,
    /// Requests in a day.
    pub per_day: Option<NonZeroU32>,
}
