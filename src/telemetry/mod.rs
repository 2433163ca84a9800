//! What is seen of the gateway from outside: metrics, the access log and its own log.
//!
//! The three use one vocabulary: an [`Outcome`]'s code is the metric label, the log field and the `code` of the reply. Nothing
//! in here decides, and nothing that a request does in here takes a lock, waits or allocates: each worker counts and writes
//! into memory of its own and hands it over now and then. Deliberately absent: spans and traces.

pub mod access_log;
mod hiding;
mod json;
pub mod log;
pub mod metrics;

use std::time::Duration;

use crate::access::denial::Denial;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream's reply was passed on.
    Forwarded,
    /// The gateway answered by itself.
    Refused(Denial),
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = Denial::ALL.len() + 1;

    /// The stable name: `forwarded`, or that of the denial.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Refused(denial) => denial.code(),
        }
    }

    /// Its place among all outcomes, below [`Outcome::COUNT`].
    pub const fn index(self) -> usize {
        match self {
            Self::Forwarded => 0,
            Self::Refused(denial) => 1 + denial.index(),
        }
    }

    /// All of them, in the order of [`Outcome::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Forwarded).chain(Denial::ALL.into_iter().map(Self::Refused))
    }
}

/// Where the time of one request went, by the monotonic clock.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spent {
    /// From the parsed head to the decision; none if nothing was decided.
    pub decision: Option<Duration>,
    /// From the permit to the head of the upstream's reply; none if there was no such reply.
    pub upstream: Option<Duration>,
    /// From the parsed head to the end of the reply.
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_index_and_no_two_share_a_code() {
        let codes: std::collections::BTreeSet<_> = Outcome::all().map(Outcome::code).collect();
        assert_eq!(codes.len(), Outcome::COUNT);
        for (place, outcome) in Outcome::all().enumerate() {
            assert_eq!(outcome.index(), place);
        }
    }
}
