//! Which event types a route takes.

/// Patterns of the route's `events:`. `*` stands for any run of characters, dots included. No patterns take all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter(Vec<Box<str>>);

impl EventFilter {
    pub fn new(patterns: impl IntoIterator<Item = Box<str>>) -> Self {
        Self(patterns.into_iter().collect())
    }

    /// As they were written; none take all.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| &**pattern)
    }

    /// Whether an event of type `kind` is handed over.
    pub fn accepts(&self, kind: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, kind))
    }
}

/// Greedy matching from left to right: each part between stars at its first place. Linear in both lengths.
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
    fn no_patterns_take_every_type() {
        assert!(filter(&[]).accepts("anything"));
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters_and_all_else_for_itself() {
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
        for (pattern, kind, expected) in cases {
            assert_eq!(
                filter(&[pattern]).accepts(kind),
                expected,
                "{pattern} against {kind}"
            );
        }
    }

    #[test]
    fn one_matching_pattern_is_enough() {
        assert!(filter(&["user.*", "billing.invoice.paid"]).accepts("billing.invoice.paid"));
        assert!(!filter(&["user.*", "billing.invoice.paid"]).accepts("billing.invoice.failed"));
    }
}
