"""The provider's sample for Flask (tests/receivers), for gunicorn."""

import os

from flask import Flask, abort, request
from flask_app import verify_signature

app = Flask(__name__)


@app.post("/webhooks/vpn-enterprise")
def webhook():
    if not verify_signature(request.get_data(), request.headers.get("X-VPN-Signature"), os.environ["WEBHOOK_SECRET"]):
        abort(401)
    event = request.get_json()
    print(f"event {event['type']} {event['id']}")
    return "OK", 200
