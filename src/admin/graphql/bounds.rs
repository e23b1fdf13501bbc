//! What a query may ask for, found out before it would take long or too much of the stack.

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::{Request, ServerError};

/// Selections once all fragments are put in place, each time they are named: more than the complexity allows, and few
/// enough to be counted at once.
const SELECTIONS_MAX: usize = 2_000;

/// Opening brackets, those in texts as well: nothing is nested deeper than there are.
const BRACKETS_MAX: usize = 256;

/// Selections within selections and fragments.
const NESTING_MAX: usize = 64;

/// Refuses what would take long, or too much of the stack, before it can be found out how complex it is.
pub(super) fn bounded(request: &mut Request) -> Result<(), ServerError> {
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
        if !within(
            &mut left,
            document,
            &operation.node.selection_set.node,
            NESTING_MAX,
        ) {
            return Err(ServerError::new("Query is too complex.", None));
        }
    }
    Ok(())
}

/// Takes a set's selections from what is `left`. A fragment that names itself uses it up, or gets too deep.
fn within(
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
        match &selection.node {
            Selection::Field(field) => {
                within(left, document, &field.node.selection_set.node, depth)
            }
            Selection::InlineFragment(inline) => {
                within(left, document, &inline.node.selection_set.node, depth)
            }
            Selection::FragmentSpread(spread) => document
                .fragments
                .get(&spread.node.fragment_name.node)
                .is_none_or(|fragment| {
                    within(left, document, &fragment.node.selection_set.node, depth)
                }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::graphql::schema;

    fn is_bounded(query: &str) -> Result<(), String> {
        bounded(&mut Request::new(query)).map_err(|error| error.message)
    }

    #[test]
    fn fragments_that_multiply_or_name_themselves_are_refused_before_they_are_followed() {
        let doubling = (0..40).map(|n| {
            format!(
                "fragment f{n} on Query {{ ...f{next} ...f{next} }}",
                next = n + 1
            )
        });
        let doubling = doubling.collect::<Vec<_>>().join(" ");
        let doubling =
            format!("{{ ...f0 }} {doubling} fragment f40 on Query {{ webhooks {{ id }} }}");
        assert!(is_bounded(&doubling).is_err());
        assert!(is_bounded("{ ...f } fragment f on Query { ...f ...f }").is_err());
        assert_eq!(
            is_bounded("{ ...f ...f ...none } fragment f on Query { webhooks { id } }"),
            Ok(())
        );
    }

    #[test]
    fn brackets_in_brackets_are_refused_before_they_are_read() {
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
            assert_eq!(
                is_bounded(&query),
                Err("Query is too complex.".into()),
                "{open}"
            );
        }
    }

    #[tokio::test]
    async fn as_many_brackets_as_may_be_are_read_without_harm() {
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
            let harmless = match bounded(&mut request) {
                Ok(()) => !schema().finish().execute(request).await.errors.is_empty(),
                Err(_) => true,
            };
            assert!(harmless);
        }
    }
}
