"""Checks that every error in a response is a client error, by its code."""

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes, scalar

# A string, or an integer.
scalar("EventId", st.one_of(st.just("evt_good"), st.text(min_size=1, max_size=60)).map(nodes.String) | st.integers().map(nodes.Int))

NOT_CLIENT_ERRORS = {None, "no_answer", "store_unavailable", "draining"}


@schemathesis.check
def errors_are_client_errors(context, response, case):
    assert response.status_code == 200, f"{response.status_code}: {response.text}"
    codes = {error.get("extensions", {}).get("code") for error in response.json().get("errors", [])}
    assert codes.isdisjoint(NOT_CLIENT_ERRORS), response.text
    invalid_on_purpose = case.meta is not None and case.meta.generation.mode.is_negative
    assert invalid_on_purpose or "invalid_query" not in codes, response.text
