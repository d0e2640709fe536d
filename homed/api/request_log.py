"""The request log: the choice and the format of its entries."""

import logging

from aiohttp import web

from homed.config import LoggedRequests

log = logging.getLogger("api.requests")
# Refused by the rate limits or before them: a flood of these would fill the journal. Metrics count them instead.
_REFUSED_UNSEEN = frozenset({415, 421, 429})


def is_logged(requests: LoggedRequests, change: bool, status: int, slow: bool) -> bool:
    """Return whether a request is logged; reads are not by default, as each entry wears out flash."""
    if not log.isEnabledFor(logging.INFO):
        return False
    match requests:
        case LoggedRequests.ALL:
            return True
        case LoggedRequests.CHANGES:
            return (change and status not in _REFUSED_UNSEEN) or status >= 500 or slow
        case LoggedRequests.NONE:
            return False


def write(request: web.Request, request_id: str, status: int, code: str, duration: float) -> None:
    """Log a request that was answered (`duration` in seconds)."""
    milliseconds = round(duration * 1000, 2)
    fields: dict[str, object] = {
        "request_id": request_id,
        "method": request.method,
        "path": request.path,
        "status_code": status,
        "duration_ms": milliseconds,
    }
    if code:
        fields["error_code"] = code
    # The record is made here, because log.info would look up the caller's line, which would double the cost.
    record = logging.LogRecord(log.name, logging.INFO, __file__, 0, "Request processed", (), None)
    record.fields = fields
    reason = f" {code}" if code else ""
    record.sentence = f"{request.method} {request.path} {status}{reason} {milliseconds:g} ms"
    log.handle(record)
