//! Figures and times in plain words.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The age in seconds from which a time is written with its date.
const DATED_AFTER_SECONDS: u64 = 12 * 3600;

/// Formats a time in UTC, with its date if it is not of today's hours.
pub(super) fn time(at: Timestamp, now: Timestamp) -> String {
    let apart = at.as_second().abs_diff(now.as_second());
    let format = if apart < DATED_AFTER_SECONDS {
        "%H:%M UTC"
    } else {
        "%Y-%m-%d %H:%M UTC"
    };
    at.to_zoned(TimeZone::UTC).strftime(format).to_string()
}

/// Formats the time since `at`, in its largest unit.
pub(super) fn age(at: Timestamp, now: Timestamp) -> String {
    span(Duration::try_from(now.duration_since(at)).unwrap_or_default())
}

/// Formats a time span. Below two of a unit, it is written in the next smaller one: `90 s`.
pub(super) fn span(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

pub(super) fn requests(count: u64) -> String {
    counted(count, "request", "requests")
}

pub(super) fn events(count: u64) -> String {
    counted(count, "event", "events")
}

pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

pub(super) fn was_were(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

/// Names a part of a whole: `all 3`, or `1 of 3`.
pub(super) fn part(part: u64, whole: u64) -> String {
    if part == whole && part > 1 {
        format!("all {whole}")
    } else {
        format!("{part} of {whole}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_their_words_agree() {
        assert_eq!([requests(1), requests(2)], ["1 request", "2 requests"]);
        assert_eq!([was_were(1), was_were(0)], ["was", "were"]);
        assert_eq!(
            [part(1, 1), part(3, 3), part(1, 3)],
            ["1 of 1", "all 3", "1 of 3"]
        );
        let spans = [0, 90, 119, 120, 7_199, 7_200, 172_800].map(Duration::from_secs);
        assert_eq!(
            spans.map(span),
            ["0 s", "90 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
        );
    }

    #[test]
    fn distant_time_has_its_date() {
        let now: Timestamp = "2026-06-01T17:35:20Z".parse().unwrap();
        let at = |text: &str| time(text.parse().unwrap(), now);
        assert_eq!(at("2026-06-01T17:30:59Z"), "17:30 UTC");
        assert_eq!(at("2026-06-04T17:30:59Z"), "2026-06-04 17:30 UTC");
    }
}
