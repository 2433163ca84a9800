//! The audit log's format: one hash chain for each account and one of the operator.
//!
//! Each line holds the hash of the line before it, and its own hash is BLAKE3 over all that it says, that one included, so
//! that a line which is altered, removed or put in between breaks every hash behind it. Deliberately absent: reading the log
//! for people; that is not in this release, but [`Entry::follows`] is what a verifier does line by line.

use crate::access::key::AccountId;
use crate::access::time::Timestamp;

/// Changing this changes what every line hashes to.
const CONTEXT: &str = "martis-gateway audit line 1";

/// The previous hash of a chain's first line.
pub const BEGINNING: [u8; 32] = [0; 32];

/// Whose chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Chain {
    /// The fleet, the store as a whole, and tries that touch no known account.
    Operator,
    /// An account, its keys and, later, its members and tokens.
    Account(AccountId),
}

/// What happened: who, when, from where, what, before and after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub chain: Chain,
    pub at: Timestamp,
    pub actor_kind: &'static str,
    pub actor: String,
    /// From where.
    pub source: String,
    /// What was done or tried, such as `key.revoke`.
    pub action: &'static str,
    /// The id of what it was done to.
    pub subject: Option<String>,
    /// The code of the refusal; None if it was done.
    pub refused: Option<&'static str>,
    pub before: Option<serde_json::Value>,
    pub after: Option<serde_json::Value>,
}

/// A line as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub chain: Chain,
    /// From 1, without gaps.
    pub seq: u64,
    pub at: Timestamp,
    pub actor_kind: String,
    pub actor: String,
    pub source: String,
    pub action: String,
    pub subject: Option<String>,
    pub refused: Option<String>,
    /// JSON, exactly as it was hashed.
    pub before: Option<String>,
    pub after: Option<String>,
    pub previous: [u8; 32],
    pub hash: [u8; 32],
}

impl Entry {
    /// The line that comes behind a chain's last one, whose number and hash are given; 0 and [`BEGINNING`] if it is the first.
    pub fn behind(last_seq: u64, last_hash: [u8; 32], line: &Line) -> Self {
        let text = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
        let mut entry = Self {
            chain: line.chain,
            seq: last_seq + 1,
            at: line.at,
            actor_kind: line.actor_kind.to_owned(),
            actor: line.actor.clone(),
            source: line.source.clone(),
            action: line.action.to_owned(),
            subject: line.subject.clone(),
            refused: line.refused.map(ToOwned::to_owned),
            before: text(&line.before),
            after: text(&line.after),
            previous: last_hash,
            hash: BEGINNING,
        };
        entry.hash = entry.computed();
        entry
    }

    /// Whether this line is unaltered and comes right behind the one with this number and hash.
    pub fn follows(&self, last_seq: u64, last_hash: &[u8; 32]) -> bool {
        self.seq == last_seq + 1 && self.previous == *last_hash && self.hash == self.computed()
    }

    /// BLAKE3 over all fields in their order, each with its length before it, so that no two lines have the same bytes.
    fn computed(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        let mut field = |bytes: &[u8]| {
            // Lengths here fit in 64 bits on every machine that there is.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        match &self.chain {
            Chain::Operator => field(&[]),
            Chain::Account(id) => field(&id.to_bytes()),
        }
        field(&self.seq.to_le_bytes());
        field(&self.at.millis().to_le_bytes());
        for text in [&self.actor_kind, &self.actor, &self.source, &self.action] {
            field(text.as_bytes());
        }
        for text in [&self.subject, &self.refused, &self.before, &self.after] {
            field(&[u8::from(text.is_some())]);
            field(text.as_deref().unwrap_or_default().as_bytes());
        }
        field(&self.previous);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(number: i64) -> Line {
        Line {
            chain: Chain::Account(AccountId::from_bytes([7; 16])),
            at: Timestamp::from_millis(number),
            actor_kind: "command_line",
            actor: "ana".to_owned(),
            source: "here".to_owned(),
            action: "key.restrict",
            subject: Some(format!("key {number}")),
            refused: None,
            before: Some(json!({"enabled": false})),
            after: Some(json!({"enabled": true})),
        }
    }

    fn chain(length: i64) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for number in 0..length {
            let (seq, hash) = entries.last().map_or((0, BEGINNING), |last| (last.seq, last.hash));
            entries.push(Entry::behind(seq, hash, &line(number)));
        }
        entries
    }

    /// The number of lines from the beginning that hold.
    fn holds(entries: &[Entry]) -> usize {
        let (mut seq, mut hash) = (0, BEGINNING);
        let unbroken = entries.iter().take_while(|entry| {
            let follows = entry.follows(seq, &hash);
            (seq, hash) = (entry.seq, entry.hash);
            follows
        });
        unbroken.count()
    }

    #[test]
    fn an_untouched_chain_holds() {
        assert_eq!(holds(&chain(20)), 20);
    }

    #[test]
    fn a_line_altered_in_any_field_breaks_the_chain_there() {
        let alterations: [fn(&mut Entry); 13] = [
            |entry| entry.chain = Chain::Operator,
            |entry| entry.seq += 1,
            |entry| entry.at = Timestamp::from_millis(99),
            |entry| entry.actor_kind.push('x'),
            |entry| entry.actor.push('x'),
            |entry| entry.source.push('x'),
            |entry| entry.action.push('x'),
            |entry| entry.subject = None,
            |entry| entry.refused = Some(String::new()),
            |entry| entry.before = entry.after.clone(),
            |entry| entry.after = None,
            |entry| entry.previous[0] ^= 1,
            |entry| entry.hash[31] ^= 1,
        ];
        for alter in alterations {
            let mut entries = chain(5);
            alter(&mut entries[2]);
            assert_eq!(holds(&entries), 2);
        }
    }

    #[test]
    fn a_line_removed_or_put_in_between_breaks_the_chain_there() {
        let mut shorter = chain(5);
        shorter.remove(1);
        assert_eq!(holds(&shorter), 1);
        let mut longer = chain(5);
        let forged = Entry::behind(longer[1].seq, longer[1].hash, &line(50));
        longer.insert(2, forged);
        assert_eq!(holds(&longer), 3);
    }

    #[test]
    fn moving_text_from_one_field_to_the_next_changes_the_hash() {
        let mut one = line(1);
        one.actor = "ab".to_owned();
        one.source = "c".to_owned();
        let mut other = line(1);
        other.actor = "a".to_owned();
        other.source = "bc".to_owned();
        assert_ne!(Entry::behind(0, BEGINNING, &one).hash, Entry::behind(0, BEGINNING, &other).hash);
    }
}
