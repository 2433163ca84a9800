//! Secrets: their format, their digest, and how little of one may ever be shown.
//!
//! A secret that we make is `sk_live_` or `sk_test_`, 32 random base62 characters and 6 of checksum. The gate judges by
//! look-up of the digest alone, so secrets of other makes that were imported work, too. Deliberately absent: any way to print,
//! serialise or clone a whole secret but [`GeneratedSecret::reveal`].

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use zeroize::Zeroizing;

use super::key::Environment;

/// The longest secret that can be imported or found, in bytes.
pub const LONGEST: usize = 512;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM: usize = 32;
const CHECKSUM: usize = 6;
const PREFIX: usize = 8;
const WHOLE: usize = PREFIX + RANDOM + CHECKSUM;

/// BLAKE3 of a secret: the only form in which one is stored, indexed or sent between machines.
#[derive(Clone, Copy, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a secret's bytes.
    pub fn of(secret: &[u8]) -> Self {
        Self(*blake3::hash(secret).as_bytes())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// A sentence that says what one looks like; the text itself is not repeated, since it may be a secret.
    pub fn parse_hex(text: &str) -> Result<Self, String> {
        let lower = text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let parsed = if lower { blake3::Hash::from_hex(text).ok() } else { None };
        parsed.map(|hash| Self(*hash.as_bytes())).ok_or_else(|| "a digest is 64 lower-case hexadecimal digits".to_owned())
    }
}

impl PartialEq for Digest {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Digest {}

impl Hash for Digest {
    /// The first eight bytes: they are uniform already.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// What a client sent as its secret: borrowed from the head of its request and gone with it.
pub struct PresentedSecret<'a>(&'a [u8]);

impl<'a> PresentedSecret<'a> {
    /// Any bytes: what is no secret of anybody is found out by the look-up, in the same time as one that is nobody's.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The environment that its prefix names; none if it has neither prefix or is longer than a secret can be.
    pub fn environment(&self) -> Option<Environment> {
        if self.0.len() > LONGEST {
            return None;
        }
        Environment::ALL.into_iter().find(|environment| self.0.starts_with(environment.prefix().as_bytes()))
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.0)
    }
}

impl fmt::Debug for PresentedSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedSecret(..)")
    }
}

/// A secret that we made: shown once, wiped when dropped.
pub struct GeneratedSecret {
    text: Zeroizing<String>,
    environment: Environment,
}

impl GeneratedSecret {
    /// Makes one from a source of random bytes, which fills the slice that it is handed.
    ///
    /// # Errors
    /// Those of the source.
    pub fn generate<E>(environment: Environment, mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        // Room for the whole from the start: growing would leave a copy behind that nobody wipes.
        let mut text = Zeroizing::new(String::with_capacity(WHOLE));
        text.push_str(environment.prefix());
        let mut random = Zeroizing::new([0_u8; 64]);
        while text.len() < PREFIX + RANDOM {
            fill(random.as_mut_slice())?;
            // 248 is the largest multiple of 62 in a byte: what is above it would favour the first characters.
            let characters = random.iter().filter(|&&byte| byte < 248).filter_map(|&byte| base62(u32::from(byte)));
            let missing = PREFIX + RANDOM - text.len();
            text.extend(characters.take(missing));
        }
        let checksum = checksum(text.as_bytes());
        text.extend(checksum);
        Ok(Self { text, environment })
    }

    /// The whole secret, for the one reply that gives it out.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    pub fn hint(&self) -> Hint {
        Hint::of(self.environment, self.text.as_bytes())
    }
}

impl fmt::Debug for GeneratedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GeneratedSecret(..)")
    }
}

/// What may be shown of a secret: its prefix and its last four characters, `sk_live_…wxyz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint(String);

impl Hint {
    /// The hint of a secret. Of one with fewer than 16 characters behind the prefix the end is not shown: it would be too
    /// large a part of the whole.
    pub fn of(environment: Environment, secret: &[u8]) -> Self {
        let tail = match secret {
            [_, .., a, b, c, d] if secret.len() >= PREFIX + 16 => [*a, *b, *c, *d],
            _ => return Self::unknown(environment),
        };
        let shown = tail.map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte) } else { '?' });
        Self(environment.prefix().chars().chain(['…']).chain(shown).collect())
    }

    /// The hint of a secret of which only the digest is known.
    pub fn unknown(environment: Environment) -> Self {
        Self(format!("{}…", environment.prefix()))
    }

    /// A hint as it was stored or exported.
    ///
    /// # Errors
    /// A sentence that says what one looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = Environment::ALL.into_iter().find_map(|environment| text.strip_prefix(environment.prefix()));
        match rest.and_then(|rest| rest.strip_prefix('…')) {
            Some(tail) if tail.is_empty() || (tail.len() == 4 && tail.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'?')) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err("a hint is a prefix, `…` and the last four characters of the secret".to_owned()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether a text has the format of the secrets that we make, checksum included.
pub fn is_well_formed(text: &[u8]) -> bool {
    let prefixed = Environment::ALL.into_iter().any(|environment| text.starts_with(environment.prefix().as_bytes()));
    let Some((body, sum)) = text.split_at_checked(PREFIX + RANDOM) else { return false };
    prefixed && body.iter().skip(PREFIX).all(u8::is_ascii_alphanumeric) && sum.iter().copied().eq(checksum(body).map(|c| c as u8))
}

/// The text with everything that looks like a secret cut down to its hint: for whatever people or clients wrote and a log or
/// an error repeats. A secret is taken to reach to the next white space, quote, bracket or separator; hints stay as they are.
pub fn hide_secrets(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((start, environment)) = first_prefix(rest) {
        let (before, from) = rest.split_at(start);
        let end = from.find(ends_secret).unwrap_or(from.len());
        let (secret, behind) = from.split_at(end);
        shown.push_str(before);
        match Hint::parse(secret) {
            Ok(hint) => shown.push_str(hint.as_str()),
            Err(_) => shown.push_str(Hint::of(environment, secret.as_bytes()).as_str()),
        }
        rest = behind;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

fn ends_secret(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "\"'`<>(){}[],:;/?&#\\".contains(character)
}

fn first_prefix(text: &str) -> Option<(usize, Environment)> {
    Environment::ALL
        .into_iter()
        .filter_map(|environment| Some((text.find(environment.prefix())?, environment)))
        .min_by_key(|(start, _)| *start)
}

/// CRC-32 (ISO-HDLC) of the first 40 bytes as a number in base 62, most significant digit first, six characters.
fn checksum(body: &[u8]) -> [char; CHECKSUM] {
    let mut number = crc32fast::hash(body);
    let mut digits = ['0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        *digit = base62(number).unwrap_or('0');
        number /= 62;
    }
    digits
}

fn base62(number: u32) -> Option<char> {
    BASE62.get((number % 62) as usize).map(|&character| char::from(character))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn generated(seed: u64) -> GeneratedSecret {
        let mut random = fastrand::Rng::with_seed(seed);
        GeneratedSecret::generate(Environment::Production, |bytes| {
            random.fill(bytes);
            Ok::<_, Infallible>(())
        })
        .unwrap()
    }

    #[test]
    fn the_checksum_is_the_one_of_the_contract() {
        let body = format!("sk_test_{}", "0".repeat(32));
        assert_eq!(checksum(body.as_bytes()).iter().collect::<String>(), "127lYz");
    }

    #[test]
    fn a_generated_secret_has_the_promised_format() {
        for seed in 0..200 {
            let secret = generated(seed);
            let text = secret.reveal();
            assert_eq!(text.len(), 46);
            assert!(text.starts_with("sk_live_"));
            assert!(is_well_formed(text.as_bytes()));
            assert_eq!(PresentedSecret::new(text.as_bytes()).environment(), Some(Environment::Production));
            assert_eq!(PresentedSecret::new(text.as_bytes()).digest(), secret.digest());
        }
    }

    #[test]
    fn every_character_of_the_alphabet_is_drawn_about_equally_often() {
        let mut counts = [0_u32; 128];
        for seed in 0..2_000 {
            for byte in generated(seed).reveal().bytes().skip(8).take(32) {
                counts[usize::from(byte)] += 1;
            }
        }
        let expected = 2_000 * 32 / 62;
        for &character in BASE62 {
            let count = counts[usize::from(character)];
            assert!(count.abs_diff(expected) < expected / 4, "{} came {count} times", char::from(character));
        }
    }

    #[test]
    fn a_mistyped_character_breaks_the_checksum() {
        let secret = generated(1);
        let mut text = secret.reveal().to_owned().into_bytes();
        text[20] = if text[20] == b'x' { b'y' } else { b'x' };
        assert!(!is_well_formed(&text));
    }

    #[test]
    fn debug_output_shows_nothing_of_a_secret() {
        let secret = generated(2);
        assert_eq!(format!("{secret:?}"), "GeneratedSecret(..)");
        assert_eq!(format!("{:?}", PresentedSecret::new(secret.reveal().as_bytes())), "PresentedSecret(..)");
    }

    #[test]
    fn a_hint_shows_the_prefix_and_four_characters_and_of_a_short_secret_none() {
        let secret = generated(3);
        let hint = secret.hint().to_string();
        assert_eq!(hint, format!("sk_live_…{}", &secret.reveal()[42..]));
        assert_eq!(Hint::of(Environment::Sandbox, b"sk_test_short").to_string(), "sk_test_…");
        assert_eq!(Hint::parse(&hint).unwrap().to_string(), hint);
        assert!(Hint::parse(secret.reveal()).is_err());
    }

    #[test]
    fn secrets_in_a_text_are_hidden_wherever_they_stand() {
        let (one, two) = (generated(4), generated(5));
        let text = format!("a {} b/{}?c", one.reveal(), two.reveal());
        assert_eq!(hide_secrets(&text), format!("a {} b/{}?c", one.hint(), two.hint()));
        assert!(matches!(hide_secrets("nothing here"), Cow::Borrowed("nothing here")));
        assert_eq!(hide_secrets("sk_live_"), "sk_live_…");
        assert_eq!(hide_secrets("`sk_live_…wxyz`"), "`sk_live_…wxyz`");
        assert_eq!(hide_secrets("sk_test_abc-def.ghi+jkl=mno~pqr: no"), "sk_test_…?pqr: no");
    }

    #[test]
    fn a_digest_is_read_from_lower_case_hexadecimal_only() {
        let digest = Digest::of(b"anything");
        assert_eq!(Digest::parse_hex(&digest.to_string()).unwrap(), digest);
        assert!(Digest::parse_hex(&digest.to_string().to_uppercase()).is_err());
        assert!(Digest::parse_hex("ab").is_err());
    }

    #[test]
    fn what_has_neither_prefix_or_is_too_long_belongs_to_no_environment() {
        for bytes in [&b""[..], b"sk_", b"SK_LIVE_x", b"sk_prod_x", b" sk_live_x"] {
            assert_eq!(PresentedSecret::new(bytes).environment(), None);
        }
        let long = format!("sk_live_{}", "x".repeat(LONGEST));
        assert_eq!(PresentedSecret::new(long.as_bytes()).environment(), None);
        assert_eq!(PresentedSecret::new(&long.as_bytes()[..LONGEST]).environment(), Some(Environment::Production));
    }

    proptest! {
        #[test]
        fn hiding_never_leaves_a_secret_behind(before in ".{0,8}", seed: u64, behind in ".{0,8}") {
            let secret = generated(seed);
            let text = format!("{before}{}{behind}", secret.reveal());
            prop_assert!(!hide_secrets(&text).contains(&secret.reveal()[8..40]));
        }
    }
}
