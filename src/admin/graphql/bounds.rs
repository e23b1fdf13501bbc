//! Bounds on a query that hold before it is validated, which could take long or overflow the stack.

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Request, ServerError};

/// The most selections, each fragment counted wherever it is spread. That is more than the
/// complexity allows, and few enough to be counted quickly.
const SELECTIONS_MAX: usize = 2_000;

/// The most opening brackets, those in strings included; they bound how deep anything is nested.
const BRACKETS_MAX: usize = 256;

/// The deepest nesting of selections and fragments.
const NESTING_MAX: usize = 64;

/// Rejects a query that is over one of the bounds.
pub(super) fn check_bounds(request: &mut Request) -> Result<(), ServerError> {
    let brackets = request
        .query
        .bytes()
        .filter(|byte| matches!(byte, b'{' | b'[' | b'('));
    if brackets.count() > BRACKETS_MAX {
        return Err(ServerError::new("Query is too complex.", None));
    }
    let document = request.parsed_query()?;
    let mut left = SELECTIONS_MAX;
    for (_, operation) in document.operations.iter() {
        let set = &operation.node.selection_set.node;
        if !count_selections(&mut left, document, set, NESTING_MAX) {
            return Err(ServerError::new("Query is too complex.", None));
        }
    }
    Ok(())
}

/// Subtracts a set's selections from `left`, and returns whether it is within the bounds. A
/// fragment that spreads itself runs into one of them.
fn count_selections(
    left: &mut usize,
    document: &ExecutableDocument,
    set: &SelectionSet,
    depth: usize,
) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    set.items.iter().all(|selection| {
        let Some(fewer) = left.checked_sub(1) else {
            return false;
        };
        *left = fewer;
        let inner = match &selection.node {
            Selection::Field(field) => Some(&field.node.selection_set),
            Selection::InlineFragment(inline) => Some(&inline.node.selection_set),
            Selection::FragmentSpread(spread) => document
                .fragments
                .get(&spread.node.fragment_name.node)
                .map(|fragment| &fragment.node.selection_set),
        };
        inner.is_none_or(|set| count_selections(left, document, &set.node, depth))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::graphql::schema;

    fn check(query: &str) -> Result<(), String> {
        check_bounds(&mut Request::new(query)).map_err(|error| error.message)
    }

    #[test]
    fn multiplying_and_cyclic_fragments_are_rejected() {
        let doubling = (0..40).map(|n| {
            format!(
                "fragment f{n} on Query {{ ...f{next} ...f{next} }}",
                next = n + 1
            )
        });
        let doubling = doubling.collect::<Vec<_>>().join(" ");
        let doubling =
            format!("{{ ...f0 }} {doubling} fragment f40 on Query {{ webhooks {{ id }} }}");
        assert!(check(&doubling).is_err());
        assert!(check("{ ...f } fragment f on Query { ...f ...f }").is_err());
        assert_eq!(
            check("{ ...f ...f ...none } fragment f on Query { webhooks { id } }"),
            Ok(())
        );
    }

    #[test]
    fn deeply_nested_brackets_are_rejected() {
        for (open, between) in [
            ("{a", ""),
            ("[", ""),
            ("{a:", ""),
            ("[\"]\" ", ""),
            ("[[", "]"),
        ] {
            let query = format!(
                "{{ webhook(id: {}",
                format!("{open}{between}").repeat(10_000)
            );
            assert_eq!(check(&query), Err("Query is too complex.".into()), "{open}");
        }
    }

    #[tokio::test]
    async fn brackets_up_to_the_limit_are_harmless() {
        for (before, open, close) in [
            ("{ webhook(id: ", "[", "]"),
            ("{ webhook(id: ", "{a:", "1}"),
            ("", "{a", "}"),
        ] {
            let query = format!("{before}{}{}", open.repeat(200), close.repeat(200));
            let query = if before.is_empty() {
                query
            } else {
                format!("{query}) {{ id }} }}")
            };
            let mut request = Request::new(query);
            let harmless = match check_bounds(&mut request) {
                Ok(()) => !schema().finish().execute(request).await.errors.is_empty(),
                Err(_) => true,
            };
            assert!(harmless);
        }
    }
}
