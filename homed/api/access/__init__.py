"""homed's own API, beside the families': keys, tokens, the audit log, metrics, and the API's description."""

from homed.api import homei
from homed.api.routes import Family

FAMILY = Family(name="homed", title="homed", prefixes=(), error=homei.error, error_type=homei.Error)
