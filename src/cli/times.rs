//! Times as people read them: how far away the near ones are, the day of the others. Programs get RFC 3339.

use std::time::Duration;

use super::output::counted;
use crate::access::time::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Within so many days a distance says more than a date.
const NEAR: u64 = 100;

/// `5 min ago`, `in 90 days`, `2026-11-22`.
pub fn short(time: Timestamp, now: Timestamp) -> String {
    let (distance, past) = if time > now { (time.since(now), false) } else { (now.since(time), true) };
    match (about(distance), past) {
        (None, _) => formatted(time, "%Y-%m-%d"),
        (Some(distance), _) if distance.is_empty() => "just now".to_owned(),
        (Some(distance), true) => format!("{distance} ago"),
        (Some(distance), false) => format!("in {distance}"),
    }
}

/// `2026-11-22 14:05:00 UTC (5 min ago)`.
pub fn long(time: Timestamp, now: Timestamp) -> String {
    let exact = formatted(time, "%Y-%m-%d %H:%M:%S UTC");
    let short = short(time, now);
    if exact.starts_with(&short) { exact } else { format!("{exact} ({short})") }
}

/// A distance in its largest unit, rounded; empty for less than a second, none for more than is near.
fn about(distance: Duration) -> Option<String> {
    let seconds = distance.as_secs();
    let rounded = |unit: u64| (seconds + unit / 2) / unit;
    Some(match seconds {
        0 => String::new(),
        _ if seconds < MINUTE => format!("{seconds} s"),
        _ if seconds < HOUR => format!("{} min", rounded(MINUTE)),
        _ if seconds < DAY => format!("{} h", rounded(HOUR)),
        _ if seconds < NEAR * DAY => counted(rounded(DAY), "day"),
        _ => return None,
    })
}

fn formatted(time: Timestamp, format: &str) -> String {
    // Timestamps are always within what the calendar can show; RFC 3339 is the honest answer should one ever not be.
    jiff::Timestamp::from_millisecond(time.millis()).map_or_else(|_| time.to_string(), |time| time.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_356_000_000);

    #[track_caller]
    fn check(seconds: i64, expected: &str) {
        assert_eq!(short(Timestamp::from_millis(NOW.millis() + seconds * 1_000), NOW), expected);
    }

    #[test]
    fn near_times_are_told_by_their_distance_and_far_ones_by_their_day() {
        check(0, "just now");
        check(-5, "5 s ago");
        check(-65, "1 min ago");
        check(-7_200, "2 h ago");
        check(90 * 86_400 - 1, "in 90 days");
        check(86_400, "in 1 day");
        check(86_399, "in 24 h");
        check(-200 * 86_400, "2026-05-06");
        check(400 * 86_400, "2027-12-27");
    }

    #[test]
    fn the_long_form_is_exact_and_says_the_distance_of_near_times() {
        assert_eq!(long(NOW, NOW.plus(Duration::from_secs(60))), "2026-11-22 14:00:00 UTC (1 min ago)");
        assert_eq!(long(NOW, NOW.plus(Duration::from_secs(200 * DAY))), "2026-11-22 14:00:00 UTC");
    }
}
