"""The header by which a client says that a submission is one that it has sent before."""

import hashlib

from homed.api.routes import Call

HEADERS = {"Idempotency-Key": "The same submission with the same key again is the one that it made the first time."}


def idempotency_key(call: Call) -> str:
    """Whatever text the header holds, as one of a bounded length; empty where there is none."""
    given = call.request.headers.get("Idempotency-Key", "")
    return hashlib.sha256(given.encode(errors="surrogateescape")).hexdigest() if given else ""
