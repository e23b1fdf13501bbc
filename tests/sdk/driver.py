"""The providers' Python SDKs behind one pipe: a JSON object a line in, one a line out, as described in `README.md`.
Owns the translation to each SDK's call; what a verdict means is the SDK's to say, and the tests' to judge.
Runs with the python of HOOKSTILE_PYTHON."""

import base64
import json
import sys
from datetime import datetime, timezone


def header(headers, name):
    return next((value for key, value in headers.items() if key.lower() == name), None)


def stripe():
    from stripe import Webhook, WebhookSignature

    def sign(request):
        signature = WebhookSignature.generate_signature_header(
            request["body"].decode(), request["secret"], request["timestamp"]
        )
        return {"Stripe-Signature": signature}

    def verify(request):
        Webhook.construct_event(request["body"], header(request["headers"], "stripe-signature"), request["secret"])
        return True

    return {"sign": sign, "verify": verify}


def standard(webhook, prefix):
    """Standard Webhooks and its Svix dialect differ only in the header names."""

    def sign(request):
        time = datetime.fromtimestamp(request["timestamp"], timezone.utc)
        signature = webhook(request["secret"]).sign(request["id"], time, request["body"].decode())
        return {
            f"{prefix}-id": request["id"],
            f"{prefix}-timestamp": str(request["timestamp"]),
            f"{prefix}-signature": signature,
        }

    def verify(request):
        webhook(request["secret"]).verify(request["body"], request["headers"])
        return True

    return {"sign": sign, "verify": verify}


def standardwebhooks():
    from standardwebhooks import Webhook

    return standard(Webhook, "webhook")


def svix():
    from svix.webhooks import Webhook

    return standard(Webhook, "svix")


def slack_sdk():
    from slack_sdk.signature import SignatureVerifier

    def sign(request):
        timestamp = str(request["timestamp"])
        signature = SignatureVerifier(request["secret"]).generate_signature(timestamp=timestamp, body=request["body"])
        return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}

    def verify(request):
        return SignatureVerifier(request["secret"]).is_valid_request(request["body"], request["headers"])

    return {"sign": sign, "verify": verify}


def square():
    from square.utils.webhooks_helper import verify_signature

    def verify(request):
        return verify_signature(
            request_body=request["body"].decode(),
            signature_header=header(request["headers"], "x-square-hmacsha256-signature"),
            signature_key=request["secret"],
            notification_url=request["url"],
        )

    return {"verify": verify}


# Imported on first use: some of the packages take a second.
SDKS = {
    "stripe": stripe,
    "standardwebhooks": standardwebhooks,
    "svix": svix,
    "slack_sdk": slack_sdk,
    "square": square,
}


def answer(line):
    request = json.loads(line)
    operation = SDKS[request["sdk"]]()[request["op"]]
    request["body"] = base64.b64decode(request["body"])
    if request["op"] == "sign":
        return {"headers": operation(request)}
    try:
        return {"verified": True} if operation(request) else {"verified": False, "error": "refused"}
    except Exception as error:
        return {"verified": False, "error": str(error) or repr(error)}


for line in sys.stdin:
    try:
        reply = answer(line)
    except Exception as error:
        reply = {"error": repr(error)}
    print(json.dumps(reply), flush=True)
