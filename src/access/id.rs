//! Names of keys, accounts and nodes: 16 bytes, of which the first six are the moment of making, so that they sort by age, and ten
//! are random. Written as a prefix and 26 characters of Crockford's base 32 in lower case: five bits a character keep the
//! writing of one, which happens on every forwarded request, to a few shifts.

use std::fmt;

use super::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 26 characters carry 130 bits; the first character therefore never exceeds `7`.
const TEXT_LENGTH: usize = 26;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            pub const PREFIX: &'static str = $prefix;
            /// Length of the written form.
            pub const LENGTH: usize = $prefix.len() + TEXT_LENGTH;

            /// A new one, from the moment of making and ten random bytes.
            pub fn new(made: Timestamp, random: [u8; 10]) -> Self {
                Self(assemble(made, random))
            }

            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }

            /// The written form, without an allocation.
            pub fn write(self) -> [u8; Self::LENGTH] {
                let mut text = [0; Self::LENGTH];
                let (prefix, rest) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                encode(&self.0, rest);
                text
            }

            /// Parses the written form.
            ///
            /// # Errors
            /// A sentence that says what one looks like.
            pub fn parse(text: &str) -> Result<Self, String> {
                text.strip_prefix($prefix).and_then(decode).map(Self).ok_or_else(|| {
                    format!(
                        "`{}` is not an id: one begins with `{}` and has 26 characters of 0-9 and a-z behind it",
                        super::secret::hide_secrets(text).escape_debug(),
                        $prefix
                    )
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // The alphabet and the prefix are ASCII, so the text always is UTF-8.
                f.pad(std::str::from_utf8(&self.write()).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::parse(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// The name of a key: `key_…`.
    KeyId,
    "key_"
);
id!(
    /// The name of an account: `acct_…`.
    AccountId,
    "acct_"
);
id!(
    /// The name of one running node, made new at each of its starts: `node_…`.
    NodeId,
    "node_"
);

fn assemble(made: Timestamp, random: [u8; 10]) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (time, rest) = bytes.split_at_mut(6);
    let [_, _, millis @ ..] = made.millis().max(0).to_be_bytes();
    time.copy_from_slice(&millis);
    rest.copy_from_slice(&random);
    bytes
}

fn encode(bytes: &[u8; 16], text: &mut [u8]) {
    let number = u128::from_be_bytes(*bytes);
    for (place, character) in text.iter_mut().rev().enumerate() {
        let digit = (number >> (5 * place)) & 31;
        // Five bits always name one of the 32 characters.
        *character = ALPHABET.get(digit as usize).copied().unwrap_or(b'0');
    }
}

fn decode(text: &str) -> Option<[u8; 16]> {
    if text.len() != TEXT_LENGTH || text.as_bytes().first().is_none_or(|&first| first > b'7') {
        return None;
    }
    let mut number = 0_u128;
    for character in text.bytes() {
        let digit = ALPHABET.iter().position(|&known| known == character)?;
        number = (number << 5) | digit as u128;
    }
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_sort_by_the_moment_of_making() {
        let early = KeyId::new(Timestamp::from_millis(1_000), [255; 10]);
        let late = KeyId::new(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
    }

    #[test]
    fn what_is_no_id_is_refused_and_a_secret_pasted_by_mistake_is_not_repeated() {
        let secret = format!("sk_live_{}", "Z".repeat(38));
        for text in ["", "key_", "acct_00000000000000000000000000", "key_80000000000000000000000000", &secret] {
            let refusal = KeyId::parse(text).unwrap_err();
            assert!(refusal.contains("26 characters"), "{refusal}");
            assert!(!refusal.contains(&"Z".repeat(38)));
        }
    }

    proptest! {
        #[test]
        fn every_id_is_read_back_as_it_was_written(bytes: [u8; 16]) {
            let id = AccountId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().len(), AccountId::LENGTH);
            prop_assert_eq!(AccountId::parse(&id.to_string()).unwrap(), id);
        }

        #[test]
        fn no_text_is_read_as_two_ids(text in "key_[0-9a-zA-Z]{26}") {
            if let Ok(id) = KeyId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
