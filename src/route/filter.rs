//! The event types that a route accepts.

/// The patterns of the route's `events:`. `*` matches any sequence of characters, dots included.
/// Without patterns, every type is accepted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter(Vec<Box<str>>);

impl EventFilter {
    pub fn new(patterns: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(patterns.into_iter().collect())
    }

    /// Returns the patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| &**pattern)
    }

    /// Returns whether events of this type are delivered.
    pub fn accepts(&self, event_type: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, event_type))
    }
}

/// Matches from left to right, each part between stars at its first occurrence. Takes time linear
/// in both lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> EventFilter {
        EventFilter::new(patterns.iter().map(|&pattern| pattern.into()))
    }

    #[test]
    fn filter_without_patterns_accepts_every_type() {
        assert!(filter(&[]).accepts("anything"));
    }

    #[test]
    fn star_matches_any_sequence_of_characters() {
        let cases = [
            ("user.*", "user.created", true),
            ("user.*", "user.password.changed", true),
            ("user.*", "user", false),
            ("user.*", "superuser.created", false),
            ("*.created", "user.created", true),
            ("*.created", "user.created.twice", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("user.created", "user.created", true),
            ("user.created", "User.Created", false),
        ];
        for (pattern, event_type, expected) in cases {
            assert_eq!(
                filter(&[pattern]).accepts(event_type),
                expected,
                "{pattern} against {event_type}"
            );
        }
    }

    #[test]
    fn one_matching_pattern_is_enough() {
        assert!(filter(&["user.*", "billing.invoice.paid"]).accepts("billing.invoice.paid"));
        assert!(!filter(&["user.*", "billing.invoice.paid"]).accepts("billing.invoice.failed"));
    }
}
