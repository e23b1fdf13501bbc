"""Consistent example values, so that most generated webhooks are valid, which a schema alone can't express; and
events that can be forgotten."""

import os

import schemathesis

EXAMPLES = {
    "url": os.environ["HOOKSTILE_UPSTREAM"],
    "events": ["user.*"],
    "headers": {"X-Tenant": "a"},
    "allow_from": ["127.0.0.1"],
    "public_url": "https://hooks.example.com/a",
    "event": {"id": "/id"},
    "delivery": "queue",
    "attempt_timeout": "1s",
    "budget": "2s",
    "budget_margin": "100ms",
    "max_body": "64KiB",
    "retain": {"for": "1h"},
    "retry": {"horizon": "2h"},
    "rate_limit": {"per_second": 100},
    "expect_every": "1h",
}


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for name in ("NewWebhook", "WebhookChange", "WebhookPatch"):
        properties = raw_schema["components"]["schemas"][name]["properties"]
        for key, example in EXAMPLES.items():
            properties[key]["examples"] = [example]
    # A dictionary can't generate a value that is either a string or a number.
    forgotten = raw_schema["components"]["schemas"]["EventToForget"]["properties"]["event_id"]
    forgotten["examples"] = ["evt_good", "evt_kept"]
