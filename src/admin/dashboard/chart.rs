//! Charts of the last hour as SVG coordinates: a bar a minute, its requests stacked by outcome, on
//! axes with round numbers. Minutes before the route's start are marked as unknown.

use jiff::{SignedDuration, Timestamp};

use super::page::{Moment, Page};
use super::words;
use crate::activity::{MINUTES, MinuteBucket};

/// A bar chart of requests or attempts.
pub(super) struct Bars {
    pub minutes: Vec<Bar>,
    pub axes: Axes,
    /// The chart in a sentence, for screen readers.
    pub summary: String,
}

/// The bar of one minute.
pub(super) struct Bar {
    /// The position from the left, in units of a bar's width.
    pub x: usize,
    pub parts: Vec<Part>,
    /// The start of the minute.
    pub at: Moment,
    /// The start of the minute in UTC, to the minute.
    pub clock: String,
    /// The bar's counts in words.
    pub counts: String,
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
    pub axes: Axes,
    /// The chart in a sentence, for screen readers.
    pub summary: String,
}

/// The axes of a chart: the values at its top and in its middle, and the times at its quarters.
pub(super) struct Axes {
    pub top: String,
    pub middle: String,
    /// The times at the start of each quarter of an hour, each with its text in UTC.
    pub times: Vec<(Moment, String)>,
    /// The number of minutes before the route's start, of which nothing is known.
    pub unknown: usize,
}

/// The hour that charts show.
pub(super) struct Hour<'a> {
    pub minutes: &'a [MinuteBucket; MINUTES],
    /// The number of the latest minutes that are known.
    pub known: usize,
    pub page: &'a Page,
}

/// Returns the most requests of a minute.
pub(super) fn highest(minutes: &[MinuteBucket; MINUTES]) -> u64 {
    let totals = minutes.iter().map(|minute| minute.requests.total());
    totals.max().unwrap_or(0)
}

/// Returns the round and even number at the top of an axis for values up to `highest`.
pub(super) fn axis_top(highest: u64) -> u64 {
    let mut unit: u64 = 1;
    loop {
        for step in [2, 4, 6, 8, 10] {
            let top = unit.saturating_mul(step);
            if top >= highest {
                return top;
            }
        }
        unit = unit.saturating_mul(10);
    }
}

impl Hour<'_> {
    /// Charts requests by outcome. `top` is the value at the top, if the scale is a common one.
    pub(super) fn requests(&self, top: Option<u64>) -> Bars {
        self.stack_bars(top, |minute| {
            let requests = minute.requests;
            vec![
                ("accepted", "accepted", requests.accepted),
                (
                    "duplicate",
                    plural(requests.duplicate, "duplicate", "duplicates"),
                    requests.duplicate,
                ),
                ("skipped", "skipped", requests.skipped),
                ("rejected", "rejected", requests.rejected),
                ("failed", "failed", requests.failed),
            ]
        })
    }

    /// Charts delivery attempts by result.
    pub(super) fn attempts(&self) -> Bars {
        self.stack_bars(None, |minute| {
            vec![
                ("accepted", "succeeded", minute.attempts_succeeded),
                ("failed", "failed", minute.attempts_failed),
            ]
        })
    }

    /// Charts the 95th percentile of request durations. Minutes in which everything was rejected
    /// are left out: quick refusals would look like a quick upstream.
    #[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of milliseconds"
    )]
    pub(super) fn p95(&self) -> Option<Curve> {
        let value = |minute: &MinuteBucket| {
            let answered = minute.requests.accepted + minute.requests.failed;
            minute.p95_seconds.filter(|_| answered > 0)
        };
        let values: Vec<_> = self.minutes.iter().map(value).collect();
        let highest = values.iter().flatten().copied().reduce(f64::max)?;
        // Above a second, the axis counts whole seconds.
        let unit_ms = if highest > 1.0 { 1_000 } else { 1 };
        let highest_ms = (highest * 1_000.0).ceil() as u64;
        let top_ms = axis_top(highest_ms.div_ceil(unit_ms)) * unit_ms;
        let seconds = |ms: u64| words::milliseconds(ms as f64 / 1_000.0);
        let places: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(x, value)| {
                value.map(|value| {
                    let (x, y) = (x as f64, 100.0 - 100_000.0 * value / top_ms as f64);
                    format!("{:.1},{y:.1} {:.1},{y:.1}", x + 0.1, x + 0.9)
                })
            })
            .collect();
        let runs = places
            .split(|place| place.is_none())
            .filter(|run| !run.is_empty());
        let lines = runs.map(|run| run.iter().flatten().cloned().collect::<Vec<_>>().join(" "));
        Some(Curve {
            lines: lines.collect(),
            axes: self.axes(seconds(top_ms), seconds(top_ms / 2)),
            summary: format!("The highest was {}.", words::milliseconds(highest)),
        })
    }

    fn axes(&self, top: String, middle: String) -> Axes {
        let times = [0, 15, 30, 45].map(|x| {
            let at = self.minute_start(x);
            let clock = at.strftime("%H:%M").to_string();
            (self.page.moment(&at), clock)
        });
        Axes {
            top,
            middle,
            times: times.into(),
            unknown: MINUTES.saturating_sub(self.known),
        }
    }

    /// Returns the time at which the minute at this position began, to the minute.
    fn minute_start(&self, x: usize) -> Timestamp {
        let ago = i64::try_from(MINUTES - 1 - x).unwrap_or(0);
        let now = self.page.now;
        now.checked_sub(SignedDuration::from_mins(ago))
            .unwrap_or(now)
    }

    #[expect(clippy::cast_precision_loss, reason = "a height in a picture")]
    fn stack_bars(
        &self,
        top: Option<u64>,
        parts_of: impl Fn(&MinuteBucket) -> Vec<CountedPart>,
    ) -> Bars {
        let minutes: Vec<_> = self.minutes.iter().map(&parts_of).collect();
        let sum = |parts: &[CountedPart]| parts.iter().map(|(.., count)| count).sum::<u64>();
        let highest = minutes.iter().map(|parts| sum(parts)).max().unwrap_or(0);
        let top = top.unwrap_or_else(|| axis_top(highest));
        let bar = |(x, parts): (usize, &Vec<CountedPart>)| {
            let mut y = 100.0;
            let stacked = parts
                .iter()
                .filter(|(.., count)| *count > 0)
                .map(|(class, _, count)| {
                    // On a common scale, a few requests beside thousands stay visible.
                    let height = (100.0 * *count as f64 / top as f64).max(2.0);
                    y -= height;
                    Part { class, y, height }
                });
            let start = self.minute_start(x);
            Bar {
                x,
                parts: stacked.collect(),
                at: self.page.moment(&start),
                clock: start.strftime("%H:%M UTC").to_string(),
                counts: counts_in_words(parts),
            }
        };
        let drawn = minutes
            .iter()
            .enumerate()
            .filter(|(_, parts)| sum(parts) > 0)
            .map(bar)
            .collect();
        let mut whole = MinuteBucket::default();
        for minute in self.minutes {
            whole.requests += minute.requests;
            whole.attempts_succeeded += minute.attempts_succeeded;
            whole.attempts_failed += minute.attempts_failed;
        }
        Bars {
            minutes: drawn,
            axes: self.axes(words::count(top), words::count(top / 2)),
            summary: format!("In the last hour: {}.", counts_in_words(&parts_of(&whole))),
        }
    }
}

/// A part of a bar: its class, its name and its count.
type CountedPart = (&'static str, &'static str, u64);

fn plural(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

fn counts_in_words(parts: &[CountedPart]) -> String {
    let counts: Vec<_> = parts
        .iter()
        .filter(|(.., count)| *count > 0)
        .map(|(_, name, n)| format!("{} {name}", words::count(*n)))
        .collect();
    if counts.is_empty() {
        "nothing".into()
    } else {
        counts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page {
            now: "2026-06-01T12:00:30Z".parse().unwrap(),
            ..Page::anonymous()
        }
    }

    fn hour<'a>(minutes: &'a [MinuteBucket; MINUTES], page: &'a Page) -> Hour<'a> {
        Hour {
            minutes,
            known: 50,
            page,
        }
    }

    #[test]
    fn bars_are_stacked_from_the_bottom() {
        let mut minutes = [MinuteBucket::default(); MINUTES];
        minutes[10].requests.accepted = 30;
        minutes[10].requests.failed = 10;
        minutes[59].requests.rejected = 20;
        minutes[59].requests.duplicate = 1;
        let page = page();
        let chart = hour(&minutes, &page).requests(None);
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
        assert_eq!(
            segments(&chart.minutes[1]),
            [("duplicate", 97.5, 2.5), ("rejected", 47.5, 50.0)]
        );
        let first = &chart.minutes[0];
        assert_eq!(
            (&*first.clock, &*first.counts),
            ("11:11 UTC", "30 accepted, 10 failed")
        );
        assert_eq!(
            (&*chart.axes.top, &*chart.axes.middle, chart.axes.unknown),
            ("40", "20", 10)
        );
        assert_eq!(
            chart.summary,
            "In the last hour: 30 accepted, 1 duplicate, 20 rejected, 10 failed."
        );
        let scaled = hour(&minutes, &page).requests(Some(4_000));
        assert_eq!(segments(&scaled.minutes[1])[1], ("rejected", 96.0, 2.0));
    }

    #[test]
    fn hour_without_requests_has_no_bars() {
        let minutes = [MinuteBucket::default(); MINUTES];
        let page = page();
        let chart = hour(&minutes, &page).attempts();
        assert!(chart.minutes.is_empty() && chart.summary == "In the last hour: nothing.");
        assert!(hour(&minutes, &page).p95().is_none());
    }

    #[test]
    fn axes_end_at_even_round_numbers() {
        let tops = [0, 1, 3, 7, 10, 11, 75, 1_001, 4_000].map(axis_top);
        assert_eq!(tops, [2, 2, 4, 8, 10, 20, 80, 2_000, 4_000]);
        assert_eq!(axis_top(u64::MAX), u64::MAX);
    }

    #[test]
    fn minute_without_answers_interrupts_the_curve() {
        let mut minutes = [MinuteBucket::default(); MINUTES];
        for (place, seconds) in [(0, 0.005), (1, 0.01), (2, 0.001), (3, 0.0025)] {
            minutes[place].p95_seconds = Some(seconds);
            minutes[place].requests.accepted = 1;
        }
        minutes[2].requests.accepted = 0;
        minutes[2].requests.rejected = 9;
        let page = page();
        let curve = hour(&minutes, &page).p95().unwrap();
        assert_eq!(
            curve.lines,
            ["0.1,50.0 0.9,50.0 1.1,0.0 1.9,0.0", "3.1,75.0 3.9,75.0"]
        );
        assert_eq!(&*curve.axes.top, "10\u{a0}ms");
        minutes[1].p95_seconds = Some(1.2);
        let slow = hour(&minutes, &page).p95().unwrap();
        assert_eq!(
            (&*slow.axes.top, &*slow.axes.middle),
            ("2.0\u{a0}s", "1.0\u{a0}s")
        );
    }
}
