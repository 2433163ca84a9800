//! A moment, to the millisecond, and durations as people write them. Where a moment comes from is not decided here: `clock`
//! reads it, everybody else is handed it.

use std::fmt;
use std::time::Duration;

/// Milliseconds since the Unix epoch, by the wall clock. Shown and parsed as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Clamped to the years 0000 to 9999, which are all that RFC 3339 can write; the last day is left out, since with an
    /// offset it could be written as a year later.
    pub const fn from_millis(millis: i64) -> Self {
        const EARLIEST: i64 = -62_167_219_200_000;
        const LATEST: i64 = 253_402_207_199_999;
        if millis < EARLIEST {
            Self(EARLIEST)
        } else if millis > LATEST {
            Self(LATEST)
        } else {
            Self(millis)
        }
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339 with any offset; parts of a millisecond are cut off.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse_rfc3339(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|instant| Self::from_millis(instant.as_millisecond()))
            .map_err(|_| format!("`{}` is not a time: write it like 2027-01-31T12:00:00Z", text.escape_debug()))
    }

    /// The moment `duration` later; the end of the year 9999 if that is past it.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// The moment `duration` earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            // Cannot be: every constructor clamps to what RFC 3339 can write. A number is still better than a panic.
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is no duration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoDuration {
    /// It has not the form of one.
    Form,
    /// It is longer than can be counted.
    TooLong,
}

/// Parses a duration: one whole number and one of the units `ms`, `s`, `m`, `h` and `d`, such as `30s`, `24h` or `90d`. The
/// configuration, the command line and programs all write them so: "2 years 5min" nobody reads at a glance, and `1M` is a
/// month to some and a minute to others.
///
/// # Errors
/// Why it is none.
pub fn parse_duration(text: &str) -> Result<Duration, NoDuration> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or(NoDuration::Form)?;
    let (number, unit) = text.split_at(unit);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(NoDuration::Form),
    };
    let counted = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    counted.map(Duration::from_millis).ok_or(NoDuration::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_one_whole_number_and_one_short_unit() {
        let milliseconds = |text| parse_duration(text).unwrap().as_millis();
        assert_eq!(["0s", "500ms", "30s", "5m", "24h", "90d"].map(milliseconds), [0, 500, 30_000, 300_000, 86_400_000, 7_776_000_000]);
        for text in ["", "5", "s", "-1s", "+1s", " 1s", "1s ", "1 s", "1h30m", "1.5s", "1S", "1M", "1w", "1min", "1y", "３s", "1ß"] {
            assert_eq!(parse_duration(text), Err(NoDuration::Form), "{text}");
        }
        for text in ["18446744073709551616ms", "18446744073709551615d"] {
            assert_eq!(parse_duration(text), Err(NoDuration::TooLong), "{text}");
        }
    }

    #[test]
    fn a_time_is_shown_in_utc_and_read_with_any_offset() {
        let noon = Timestamp::parse_rfc3339("2026-11-22T14:00:00+02:00").unwrap();
        assert_eq!(noon.to_string(), "2026-11-22T12:00:00Z");
        assert_eq!(Timestamp::from_millis(noon.millis() + 5).to_string(), "2026-11-22T12:00:00.005Z");
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for text in ["", "tomorrow", "2026-11-22", "2026-13-01T00:00:00Z"] {
            assert!(Timestamp::parse_rfc3339(text).unwrap_err().contains("2027-01-31T12:00:00Z"), "{text}");
        }
    }

    #[test]
    fn the_ends_of_time_can_still_be_written() {
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-30T21:59:59.999Z");
        assert_eq!(Timestamp::from_millis(i64::MIN).plus(Duration::MAX).to_string(), "9999-12-30T21:59:59.999Z");
    }

    #[test]
    fn a_time_before_another_is_no_time_after_it() {
        let early = Timestamp::from_millis(1_000);
        let late = early.plus(Duration::from_secs(2));
        assert_eq!(late.since(early), Duration::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
