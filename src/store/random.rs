//! Randomness as an argument: the operating system's, or a test's.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A source of random bytes. Cheap to clone.
#[derive(Clone)]
pub struct Random(Arc<Source>);

enum Source {
    Machine,
    Seeded(Mutex<fastrand::Rng>),
}

impl Random {
    /// The operating system's: the only one that secrets may be made from outside of tests.
    pub fn of_the_machine() -> Self {
        Self(Arc::new(Source::Machine))
    }

    /// The same bytes at each run, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Source::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))))
    }

    /// # Errors
    /// The operating system has none to give.
    pub fn fill(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        match &*self.0 {
            Source::Machine => getrandom::fill(bytes),
            Source::Seeded(generator) => {
                generator.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
                Ok(())
            }
        }
    }

    /// # Errors
    /// As [`Random::fill`].
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], getrandom::Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0 {
            Source::Machine => "Random(machine)",
            Source::Seeded(_) => "Random(seeded)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_gives_other_bytes_each_time_and_a_seed_the_same() {
        let machine = Random::of_the_machine();
        assert_ne!(machine.bytes::<16>().unwrap(), machine.bytes::<16>().unwrap());
        assert_eq!(Random::seeded(7).bytes::<16>().unwrap(), Random::seeded(7).bytes::<16>().unwrap());
    }
}
