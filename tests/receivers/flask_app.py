"""A receiver as the provider's documentation describes one for Python: Flask, the raw body, HMAC-SHA256 in hex,
an optional `sha256=` in front, a constant-time comparison. It knows nothing of the gateway.
It needs `flask` and WEBHOOK_SECRET, and prints the port it listens on."""

import hashlib
import hmac
import os


def verify_signature(raw_body, signature, secret):
    expected = hmac.new(secret.encode(), raw_body, hashlib.sha256).hexdigest()
    given = signature.removeprefix("sha256=")
    return hmac.compare_digest(given, expected)


def main():
    from flask import Flask, abort, request
    from werkzeug.serving import make_server

    secret = os.environ["WEBHOOK_SECRET"]
    app = Flask(__name__)

    @app.route("/webhooks/vpn-enterprise", methods=["POST"])
    def webhook():
        if not verify_signature(request.get_data(), request.headers.get("X-VPN-Signature"), secret):
            abort(401)
        event = request.get_json()
        print(f"event {event['type']} {event['id']}", flush=True)
        return "OK", 200

    server = make_server("127.0.0.1", int(os.environ.get("PORT", "0")), app, threaded=True)
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
