//! Whether a store is the truth for somebody who knows it, or another one, already: for a node's index and for a snapshot.
//!
//! Numbers alone say little. A store that was put back from a backup takes the same numbers again for other changes, so a
//! revision is known by its stamp, and a store by the epochs that it comes from. What cannot be made sure of is refused.

use crate::store::{Epoch, Position, Standing};

/// What to do about a store that stands somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It has gone on from where ours is.
    Follow,
    /// It is the truth, whatever was known before.
    Reload,
    Refuse(Refusal),
}

/// Why a store is not the truth for an index or a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "the store is at revision {theirs}, and revision {ours} of it is known here: an older copy was put in its place. \
         Put the newer one back, or run `martis-gateway store accept` to make this one the truth"
    )]
    Behind { ours: u64, theirs: u64 },
    #[error(
        "the store went back to before revision {ours}, which is known here, and went another way from there: an older copy was \
         put in its place, and changed. Put the newer one back, or run `martis-gateway store accept` to make this one the truth"
    )]
    Diverged { ours: u64 },
    #[error(
        "the store is at revision {theirs} and no longer tells how it came by revision {ours}, which is known here. Run \
         `martis-gateway store accept` if it is the truth"
    )]
    Forgotten { ours: u64, theirs: u64 },
    #[error(
        "the store is of epoch {theirs} and has never heard of epoch {ours}, which is known here: it is another store, or a copy \
         from before `store accept`. Put the right one back, or run `martis-gateway store accept` to make this one the truth"
    )]
    Foreign { ours: Epoch, theirs: Epoch },
}

/// Judges a store, which has been asked for the revision of `ours`.
pub(super) fn judge(ours: Option<Position>, theirs: &Standing) -> Verdict {
    let Some(ours) = ours else { return Verdict::Reload };
    if ours.epoch != theirs.position.epoch {
        // Whoever accepts a store settles the epochs of all who know another one.
        return match theirs.lineage.contains(&ours.epoch) {
            true => Verdict::Reload,
            false => Verdict::Refuse(Refusal::Foreign { ours: ours.epoch, theirs: theirs.position.epoch }),
        };
    }
    let newest = theirs.position.revision;
    match theirs.stamp {
        Some(stamp) if stamp == ours.stamp => Verdict::Follow,
        Some(_) => Verdict::Refuse(Refusal::Diverged { ours: ours.revision }),
        None if newest < ours.revision => Verdict::Refuse(Refusal::Behind { ours: ours.revision, theirs: newest }),
        None => Verdict::Refuse(Refusal::Forgotten { ours: ours.revision, theirs: newest }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Stamp;

    const ONE: Epoch = Epoch::from_bytes([1; 16]);
    const TWO: Epoch = Epoch::from_bytes([2; 16]);

    fn at(epoch: Epoch, revision: u64) -> Position {
        Position { epoch, revision, stamp: stamp(revision) }
    }

    fn stamp(revision: u64) -> Stamp {
        Stamp::from_bytes(revision.to_be_bytes())
    }

    /// A store that has come so far, and knows the stamp of the revision that it was asked for, or does not.
    fn standing(position: Position, lineage: &[Epoch], stamp: Option<Stamp>) -> Standing {
        Standing { position, lineage: lineage.to_vec(), stamp }
    }

    #[test]
    fn without_an_index_every_store_is_the_truth() {
        assert_eq!(judge(None, &standing(at(ONE, 0), &[ONE], None)), Verdict::Reload);
    }

    #[test]
    fn a_store_that_has_the_revision_that_is_known_is_followed() {
        for newest in [5, 6] {
            assert_eq!(judge(Some(at(ONE, 5)), &standing(at(ONE, newest), &[ONE], Some(stamp(5)))), Verdict::Follow);
        }
    }

    #[test]
    fn a_store_that_went_back_is_refused_wherever_it_has_come_to_since() {
        let behind = judge(Some(at(ONE, 5)), &standing(at(ONE, 4), &[ONE], None));
        assert_eq!(behind, Verdict::Refuse(Refusal::Behind { ours: 5, theirs: 4 }));
        for newest in [5, 9] {
            let diverged = judge(Some(at(ONE, 5)), &standing(at(ONE, newest), &[ONE], Some(stamp(50))));
            assert_eq!(diverged, Verdict::Refuse(Refusal::Diverged { ours: 5 }));
        }
    }

    #[test]
    fn a_store_that_forgot_the_revision_that_is_known_is_refused() {
        let forgotten = judge(Some(at(ONE, 5)), &standing(at(ONE, 9), &[ONE], None));
        assert_eq!(forgotten, Verdict::Refuse(Refusal::Forgotten { ours: 5, theirs: 9 }));
    }

    #[test]
    fn a_later_epoch_is_the_truth_wherever_it_stands_and_a_foreign_one_never() {
        assert_eq!(judge(Some(at(ONE, 5)), &standing(at(TWO, 1), &[ONE, TWO], None)), Verdict::Reload);
        let foreign = judge(Some(at(ONE, 5)), &standing(at(TWO, 9), &[TWO], Some(stamp(5))));
        assert_eq!(foreign, Verdict::Refuse(Refusal::Foreign { ours: ONE, theirs: TWO }));
        // Ours is the later one: the store was put back to before it was accepted.
        let before = judge(Some(at(TWO, 5)), &standing(at(ONE, 9), &[ONE], Some(stamp(5))));
        assert_eq!(before, Verdict::Refuse(Refusal::Foreign { ours: TWO, theirs: ONE }));
    }
}
