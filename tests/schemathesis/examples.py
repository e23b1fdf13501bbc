"""Values that go with each other, so that most of the webhooks that are made up are made: a schema can't say all. And
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
    for name in ("NewWebhook", "WebhookChange"):
        properties = raw_schema["components"]["schemas"][name]["properties"]
        for key, example in EXAMPLES.items():
            properties[key]["examples"] = [example]
    # No dictionary serves what may be a text or a number.
    forgotten = raw_schema["components"]["schemas"]["EventToForget"]["properties"]["event_id"]
    forgotten["examples"] = ["evt_good", "evt_kept"]
