//! Values of settings that say how long, how much and how many.

use std::num::NonZeroU32;
use std::time::Duration;

use super::FailureBudget;
use super::problems::{Fault, nearest, quoted};
use super::read::{FromScalar, Scalar};
use crate::access::time::{NoDuration, parse_duration};

/// Longer than any wait makes sense, and short enough to be added to any moment.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A limit, or None for `"off"`.
pub(super) struct Limit<T>(pub(super) Option<T>);

/// More than zero.
pub(super) struct Positive<T>(pub(super) T);

/// How old an index may be; None for `"forever"`.
pub(super) struct Staleness(pub(super) Option<Duration>);

/// Bytes.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub(super) struct Size(pub(super) u64);

/// A number from 1 to `MOST`.
#[derive(Debug)]
pub(super) struct Count<const MOST: u32>(pub(super) NonZeroU32);

impl<T: FromScalar> FromScalar for Limit<T> {
    const WHAT: &'static str = T::WHAT;

    fn form() -> String {
        format!("{}; or \"off\"", T::form())
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        or_word(scalar, "off").map(Self)
    }
}

impl<T: FromScalar + Default + PartialEq> FromScalar for Positive<T> {
    const WHAT: &'static str = T::WHAT;

    fn form() -> String {
        T::form()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let value = T::from_scalar(scalar)?;
        let too_little = || Fault::helped(format!("{} is too little: nothing would ever pass", scalar.shown()), "write more than zero");
        if value == T::default() { Err(too_little()) } else { Ok(Self(value)) }
    }
}

impl FromScalar for Duration {
    const WHAT: &'static str = "a duration";

    fn form() -> String {
        "a number and its unit in quotes, such as \"500ms\", \"30s\", \"5m\", \"24h\" or \"30d\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        match parse_duration(text) {
            Ok(duration) if duration <= LONGEST => Ok(duration),
            Ok(_) | Err(NoDuration::TooLong) => Err(Fault::helped(format!("{} is too long", quoted(text)), "write at most \"365d\"")),
            Err(NoDuration::Form) => Err(Fault::Form),
        }
    }
}

impl FromScalar for Staleness {
    const WHAT: &'static str = Duration::WHAT;

    fn form() -> String {
        format!("{}; or \"forever\"", Duration::form())
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        or_word(scalar, "forever").map(|age| Self(age.map(|Positive(age)| age)))
    }
}

impl FromScalar for Size {
    const WHAT: &'static str = "a size";

    fn form() -> String {
        "a number and its unit in quotes, such as \"512B\", \"32KiB\", \"10MiB\" or \"1GiB\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let (number, unit) = number_and_unit(text).ok_or(Fault::Form)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(Fault::Form),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| Fault::helped(format!("{} is more than can be counted", quoted(text)), "write less"))
    }
}

impl<const MOST: u32> FromScalar for Count<MOST> {
    const WHAT: &'static str = "a count";

    fn form() -> String {
        format!("a whole number from 1 to {MOST}, without quotes")
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let Scalar::Number(number, _) = scalar else { return Err(Fault::Form) };
        let number = u32::try_from(*number).ok().filter(|number| *number <= MOST).and_then(NonZeroU32::new);
        number.map(Self).ok_or(Fault::Form)
    }
}

impl FromScalar for FailureBudget {
    const WHAT: &'static str = "a budget";

    fn form() -> String {
        "a count, a slash and a duration in quotes, such as \"600/1m\"".to_owned()
    }

    fn from_scalar(scalar: &Scalar<'_>) -> Result<Self, Fault> {
        let text = scalar.text()?;
        let (count, per) = text.split_once('/').ok_or(Fault::Form)?;
        if !count.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Fault::Form);
        }
        let count = count.parse().map_err(|_| Fault::Form)?;
        let Positive(per) = Positive::from_scalar(&Scalar::Text(per.into())).map_err(|_| Fault::Form)?;
        if count == 0 {
            return Err(Fault::helped(format!("{} allows no failure at all", quoted(text)), "write a count of at least 1"));
        }
        Ok(Self { count, per })
    }
}

/// None if that word stands in place of the value.
fn or_word<T: FromScalar>(scalar: &Scalar<'_>, word: &str) -> Result<Option<T>, Fault> {
    let value = match scalar {
        Scalar::Text(text) if text == word => return Ok(None),
        scalar => T::from_scalar(scalar),
    };
    match (value, scalar) {
        (Err(Fault::Form), Scalar::Text(text)) if nearest(text, [word]).is_some() => {
            Err(Fault::helped(format!("{} is not {}", scalar.shown(), T::WHAT), format!("did you mean \"{word}\"?")))
        }
        (value, _) => value.map(Some).map_err(|fault| fault.or(&format!("\"{word}\""))),
    }
}

/// `32KiB` as `32` and `KiB`.
fn number_and_unit(text: &str) -> Option<(&str, &str)> {
    let (number, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    (!number.is_empty()).then_some((number, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: FromScalar>(text: &str) -> Result<T, Fault> {
        T::from_scalar(&Scalar::Text(text.into()))
    }

    /// What is wrong with a text, for a type that refuses it.
    #[track_caller]
    fn refused<T: FromScalar>(text: &str) -> Fault {
        parse::<T>(text).err().unwrap_or_else(|| panic!("{text:?} is taken for {}", T::WHAT))
    }

    #[test]
    fn a_duration_is_one_number_and_one_short_unit() {
        let milliseconds = |text| parse::<Duration>(text).unwrap().as_millis();
        assert_eq!(["500ms", "30s", "5m", "24h", "30d", "0s"].map(milliseconds), [500, 30_000, 300_000, 86_400_000, 2_592_000_000, 0]);
        for text in ["", "30", "s", "-1s", "+1s", " 30s", "30s ", "30 s", "1h30m", "1.5s", "1S", "1M", "1w", "1min", "1y", "３s", "30ß"] {
            assert_eq!(refused::<Duration>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn a_duration_is_at_most_a_year() {
        assert_eq!(parse::<Duration>("365d").unwrap(), LONGEST);
        for text in ["366d", "31536001s", "99999999999999999999ms"] {
            assert_ne!(refused::<Duration>(text), Fault::Form, "{text}");
        }
    }

    #[test]
    fn zero_is_refused_where_nothing_would_pass() {
        assert_eq!(parse::<Positive<Duration>>("1ms").unwrap().0, Duration::from_millis(1));
        assert!(matches!(refused::<Positive<Duration>>("0d"), Fault::Said { .. }));
        assert!(matches!(refused::<Positive<Size>>("0KiB"), Fault::Said { .. }));
    }

    #[test]
    fn a_size_has_a_binary_unit() {
        let bytes = |text| parse::<Size>(text).unwrap().0;
        assert_eq!(["0B", "512B", "32KiB", "10MiB", "2GiB"].map(bytes), [0, 512, 32_768, 10_485_760, 2_147_483_648]);
        for text in ["", "32", "KiB", "32KB", "32kib", "32 KiB", "1.5MiB", "-1B", "32K"] {
            assert_eq!(refused::<Size>(text), Fault::Form, "{text}");
        }
        assert_ne!(refused::<Size>("18446744073709551616B"), Fault::Form);
        assert_ne!(refused::<Size>("18014398509481984KiB"), Fault::Form);
    }

    #[test]
    fn off_lifts_a_limit_and_forever_a_lease() {
        assert!(parse::<Limit<Positive<Duration>>>("off").unwrap().0.is_none());
        assert!(parse::<Limit<Count<9>>>("off").unwrap().0.is_none());
        assert!(parse::<Staleness>("forever").unwrap().0.is_none());
        assert_eq!(parse::<Staleness>("12h").unwrap().0, Some(Duration::from_secs(43_200)));
        assert_eq!(refused::<Staleness>("off"), Fault::Form);
        assert_eq!(refused::<Limit<Size>>("forever"), Fault::Form);
        assert!(matches!(refused::<Limit<Size>>("OFF"), Fault::Said { help: Some(help), .. } if help.contains("\"off\"")));
    }

    #[test]
    fn a_count_is_a_number_within_its_bounds_and_not_a_text() {
        let count = |number: i64| Count::<100>::from_scalar(&Scalar::Number(number, number.to_string())).map(|count| count.0.get());
        assert_eq!([count(1), count(100)], [Ok(1), Ok(100)]);
        for number in [0, 101, -1, i64::MIN, i64::MAX] {
            assert_eq!(count(number), Err(Fault::Form), "{number}");
        }
        assert_eq!(refused::<Count<100>>("1"), Fault::Form);
    }

    #[test]
    fn a_budget_is_a_count_in_a_time() {
        assert_eq!(parse::<FailureBudget>("600/1m").unwrap(), FailureBudget { count: 600, per: Duration::from_secs(60) });
        for text in ["", "600", "/", "600/", "/1m", "600/m", "600/0s", "-1/1m", "+1/1m", "600/1m/1m", "4294967296/1m"] {
            assert_eq!(refused::<FailureBudget>(text), Fault::Form, "{text}");
        }
        assert_ne!(refused::<FailureBudget>("0/1m"), Fault::Form);
    }
}
