//! The key as the decision sees it. Small on purpose: ten million of them stand in memory, and each pointer to follow from one
//! would be another wait for memory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::address::AddressRule;
pub use super::id::{AccountId, KeyId};
use super::permission::Permissions;
use super::time::Timestamp;

/// Where a key works: an attribute of the key, and, by its Host, of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Environment {
    Production,
    Sandbox,
}

impl Environment {
    pub const ALL: [Self; 2] = [Self::Production, Self::Sandbox];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }

    /// What every secret of this environment begins with; eight bytes.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Production => "sk_live_",
            Self::Sandbox => "sk_test_",
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Environment {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|environment| environment.name() == text)
            .ok_or_else(|| format!("`{}` is no environment: `production` or `sandbox`", text.escape_debug()))
    }
}

/// What was last said of a key. Expiry is not part of it: time passes without anybody saying so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LifeState {
    Active,
    Paused,
    /// Final: nothing leads out of it.
    Revoked,
}

impl LifeState {
    /// The status at a moment. Revoked comes before expired, expired before paused: the more final one is shown.
    pub fn status(self, expires_at: Option<Timestamp>, now: Timestamp) -> Status {
        match self {
            Self::Revoked => Status::Revoked,
            _ if expires_at.is_some_and(|end| now >= end) => Status::Expired,
            Self::Paused => Status::Paused,
            Self::Active => Status::Active,
        }
    }
}

/// What a key is at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    Active,
    Paused,
    Expired,
    Revoked,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::Expired, Self::Revoked];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// All that a decision needs to know of one key.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    pub id: KeyId,
    pub account: AccountId,
    pub life: Life,
    /// None for most keys: full access from everywhere.
    pub narrowing: Option<Arc<Narrowing>>,
}

/// A key that was looked up, with what holds for its account as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    pub record: &'a KeyRecord,
    pub account_suspended: bool,
}

/// How a key is less than a key with full access from everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Narrowing {
    pub permissions: Permissions,
    pub addresses: AddressRule,
}

impl Narrowing {
    /// None if this narrows nothing, so that such a key costs no memory for it.
    pub fn of(permissions: Permissions, addresses: AddressRule) -> Option<Arc<Self>> {
        let narrows = permissions != Permissions::Full || addresses != AddressRule::Anywhere;
        narrows.then(|| Arc::new(Self { permissions, addresses }))
    }
}

/// Environment, state and expiry in eight bytes: the low byte holds the first two, the rest the milliseconds of the expiry,
/// all ones for none. 56 bits of milliseconds reach past the year 9999, where [`Timestamp`] ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Life(u64);

const NEVER: u64 = u64::MAX >> 8;

impl Life {
    pub fn new(environment: Environment, state: LifeState, expires_at: Option<Timestamp>) -> Self {
        // An expiry before 1970 is over as surely as one at it.
        let end = expires_at.map_or(NEVER, |end| u64::try_from(end.millis()).unwrap_or(0));
        let environment = match environment {
            Environment::Production => 0,
            Environment::Sandbox => 1,
        };
        let state = match state {
            LifeState::Active => 0,
            LifeState::Paused => 2,
            LifeState::Revoked => 4,
        };
        Self(end << 8 | state | environment)
    }

    pub const fn environment(self) -> Environment {
        if self.0 & 1 == 0 { Environment::Production } else { Environment::Sandbox }
    }

    pub const fn state(self) -> LifeState {
        match self.0 & 6 {
            0 => LifeState::Active,
            2 => LifeState::Paused,
            _ => LifeState::Revoked,
        }
    }

    pub fn expires_at(self) -> Option<Timestamp> {
        let end = self.0 >> 8;
        (end != NEVER).then(|| Timestamp::from_millis(i64::try_from(end).unwrap_or(i64::MAX)))
    }

    pub fn status(self, now: Timestamp) -> Status {
        self.state().status(self.expires_at(), now)
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Life").field(&self.environment()).field(&self.state()).field(&self.expires_at()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_forty_eight_bytes() {
        assert_eq!(size_of::<KeyRecord>(), 48);
    }

    #[test]
    fn life_gives_back_what_it_was_made_of() {
        let ends = [None, Some(0), Some(1), Some(1_790_000_000_123), Some(253_402_207_199_999)];
        for environment in Environment::ALL {
            for state in [LifeState::Active, LifeState::Paused, LifeState::Revoked] {
                for end in ends.map(|end| end.map(Timestamp::from_millis)) {
                    let life = Life::new(environment, state, end);
                    assert_eq!((life.environment(), life.state(), life.expires_at()), (environment, state, end));
                }
            }
        }
    }

    #[test]
    fn a_key_ends_at_its_expiry_and_not_before() {
        let end = Timestamp::from_millis(100);
        let life = Life::new(Environment::Production, LifeState::Active, Some(end));
        assert_eq!(life.status(Timestamp::from_millis(99)), Status::Active);
        assert_eq!(life.status(end), Status::Expired);
    }

    #[test]
    fn the_more_final_status_is_shown() {
        let end = Some(Timestamp::from_millis(100));
        let late = Timestamp::from_millis(200);
        assert_eq!(LifeState::Revoked.status(end, late), Status::Revoked);
        assert_eq!(LifeState::Paused.status(end, late), Status::Expired);
        assert_eq!(LifeState::Paused.status(None, late), Status::Paused);
    }
}
