"""Judges a corpus with the Flask receiver's own function: JSON lines {body: hex, header: string|null} in,
one of `accept`, `refuse`, `throw` a line out."""

import json
import os
import sys

from flask_app import verify_signature

for line in sys.stdin:
    case = json.loads(line)
    try:
        genuine = verify_signature(bytes.fromhex(case["body"]), case["header"], os.environ["WEBHOOK_SECRET"])
        print("accept" if genuine else "refuse")
    except Exception:
        print("throw")
