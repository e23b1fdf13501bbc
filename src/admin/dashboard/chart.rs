//! Charts of the last hour as SVG coordinates: a bar a minute, its requests stacked by outcome.

use jiff::{SignedDuration, Timestamp};

use super::words;
use crate::activity::{MINUTES, MinuteBucket};

/// A bar chart of requests or attempts.
pub(super) struct Bars {
    pub minutes: Vec<Bar>,
    /// The count of the highest bar.
    pub top: String,
    /// The chart in a sentence, for screen readers.
    pub summary: String,
}

/// The bar of one minute.
pub(super) struct Bar {
    /// The position from the left, in units of a bar's width.
    pub x: usize,
    pub parts: Vec<Part>,
    /// The bar's counts in words.
    pub title: String,
}

/// A segment of a bar: the requests with one outcome.
pub(super) struct Part {
    /// The CSS class.
    pub class: &'static str,
    /// The distance from the top, in hundredths of the chart's height.
    pub y: f64,
    pub height: f64,
}

/// A curve over the last hour.
pub(super) struct Curve {
    /// Line segments; a minute without a value interrupts the curve.
    pub lines: Vec<String>,
    pub top: String,
}

/// Charts requests by outcome.
pub(super) fn requests(hour: &[MinuteBucket; MINUTES], now: Timestamp) -> Bars {
    stack_bars(hour, now, |minute| {
        let requests = minute.requests;
        vec![
            ("accepted", requests.accepted),
            ("duplicate", requests.duplicate),
            ("skipped", requests.skipped),
            ("rejected", requests.rejected),
            ("failed", requests.failed),
        ]
    })
}

/// Charts delivery attempts by result.
pub(super) fn attempts(hour: &[MinuteBucket; MINUTES], now: Timestamp) -> Bars {
    stack_bars(hour, now, |minute| {
        vec![
            ("accepted", minute.attempts_succeeded),
            ("failed", minute.attempts_failed),
        ]
    })
}

/// Charts the 95th percentile of request durations.
#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
pub(super) fn p95(hour: &[MinuteBucket; MINUTES]) -> Option<Curve> {
    let top = hour
        .iter()
        .filter_map(|minute| minute.p95_seconds)
        .reduce(f64::max)
        .filter(|top| *top > 0.0)?;
    let places: Vec<_> = hour
        .iter()
        .enumerate()
        .map(|(x, minute)| {
            minute.p95_seconds.map(|value| {
                let (x, y) = (x as f64, 100.0 - 100.0 * value / top);
                format!("{:.1},{y:.1} {:.1},{y:.1}", x + 0.1, x + 0.7)
            })
        })
        .collect();
    let lines = places
        .split(|place| place.is_none())
        .filter(|run| !run.is_empty());
    let lines = lines.map(|run| run.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
    Some(Curve {
        lines: lines.collect(),
        top: words::milliseconds(top),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a height in a picture")]
fn stack_bars(
    hour: &[MinuteBucket; MINUTES],
    now: Timestamp,
    parts_of: impl Fn(&MinuteBucket) -> Vec<(&'static str, u64)>,
) -> Bars {
    let sum = |parts: &[(&str, u64)]| parts.iter().map(|(_, count)| count).sum::<u64>();
    let minutes: Vec<_> = hour.iter().map(parts_of).collect();
    let top = minutes.iter().map(|parts| sum(parts)).max().unwrap_or(0);
    let bar = |(x, parts): (usize, &Vec<(&'static str, u64)>)| {
        let mut y = 100.0;
        let stacked = parts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(class, count)| {
                let height = 100.0 * *count as f64 / top as f64;
                y -= height;
                Part { class, y, height }
            });
        Bar {
            x,
            parts: stacked.collect(),
            title: title(x, parts, now),
        }
    };
    let drawn = minutes
        .iter()
        .enumerate()
        .filter(|(_, parts)| sum(parts) > 0)
        .map(bar)
        .collect();
    let mut all: Vec<(&'static str, u64)> = Vec::new();
    for parts in &minutes {
        for (place, (class, count)) in parts.iter().enumerate() {
            match all.get_mut(place) {
                Some((_, sum)) => *sum += count,
                None => all.push((class, *count)),
            }
        }
    }
    Bars {
        minutes: drawn,
        top: words::count(top),
        summary: format!("In the last hour: {}.", counts_in_words(&all)),
    }
}

fn title(x: usize, parts: &[(&'static str, u64)], now: Timestamp) -> String {
    let ago = i64::try_from(MINUTES - 1 - x).unwrap_or(0);
    let at = now
        .checked_sub(SignedDuration::from_mins(ago))
        .unwrap_or(now);
    format!("{} UTC: {}", at.strftime("%H:%M"), counts_in_words(parts))
}

fn counts_in_words(parts: &[(&'static str, u64)]) -> String {
    let counts: Vec<_> = parts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(class, n)| format!("{} {}", words::count(*n), class_in_words(class)))
        .collect();
    if counts.is_empty() {
        "nothing".into()
    } else {
        counts.join(", ")
    }
}

fn class_in_words(class: &str) -> &str {
    match class {
        "duplicate" => "duplicates",
        class => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_stacked_from_the_bottom() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        hour[10].requests.accepted = 30;
        hour[10].requests.failed = 10;
        hour[59].requests.rejected = 20;
        let chart = requests(&hour, "2026-06-01T12:00:30Z".parse().unwrap());
        assert_eq!(
            chart.minutes.iter().map(|bar| bar.x).collect::<Vec<_>>(),
            [10, 59]
        );
        let segments = |bar: &Bar| {
            bar.parts
                .iter()
                .map(|part| (part.class, part.y, part.height))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            segments(&chart.minutes[0]),
            [("accepted", 25.0, 75.0), ("failed", 0.0, 25.0)]
        );
        assert_eq!(segments(&chart.minutes[1]), [("rejected", 50.0, 50.0)]);
        assert_eq!(chart.minutes[0].title, "11:11 UTC: 30 accepted, 10 failed");
        assert_eq!(
            (&*chart.top, &*chart.summary),
            (
                "40",
                "In the last hour: 30 accepted, 20 rejected, 10 failed."
            )
        );
    }

    #[test]
    fn hour_without_requests_has_no_bars() {
        let hour = [MinuteBucket::default(); MINUTES];
        let chart = attempts(&hour, Timestamp::UNIX_EPOCH);
        assert!(chart.minutes.is_empty() && chart.summary == "In the last hour: nothing.");
        assert!(p95(&hour).is_none());
    }

    #[test]
    fn minute_without_requests_interrupts_the_curve() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        for (place, seconds) in [(0, 0.5), (1, 1.0), (3, 0.25)] {
            hour[place].p95_seconds = Some(seconds);
        }
        let curve = p95(&hour).unwrap();
        assert_eq!(
            curve.lines,
            ["0.1,50.0 0.7,50.0 1.1,0.0 1.7,0.0", "3.1,75.0 3.7,75.0"]
        );
    }
}
