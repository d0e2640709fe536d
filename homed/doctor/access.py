"""Findings on the API's exposure, its keys and its certificate (pure)."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from homed.access.keys import Key
from homed.access.scopes import Scope
from homed.api import listeners
from homed.api.certificates import Certificate
from homed.clock import rfc3339
from homed.config import Config
from homed.doctor.findings import Finding, Level

_SOON = timedelta(days=30)


def exposed(config: Config) -> list[str]:
    """The addresses at which others than this board can reach the API."""
    found = [(host, port) for host, port in listeners.addresses(config) if port is not None]
    return [f"{host}:{port}" for host, port in found if not listeners.is_loopback(host)]


def exposure_findings(config: Config, keys: Sequence[Key] | None, now: datetime) -> list[Finding]:
    """`keys` None: they could not be read."""
    addresses = exposed(config)
    if not addresses:
        return [Finding(Level.OK, "exposure", "the API listens for this board alone")]
    said = ", ".join(addresses)
    if keys is None:
        return [Finding(Level.WARNING, "exposure", f"listens on {said}; the keys can be read by root only")]
    if not any(is_valid(key, now) for key in keys):
        what = (
            f"listens on {said}, and there is no valid key, so homed does not start: homed key create NAME --scope "
            "admin, or listen on 127.0.0.1"
        )
        return [Finding(Level.BAD, "exposure", what)]
    found = [Finding(Level.OK, "exposure", f"listens on {said}, and a key is needed there")]
    if not config.api.tls.enabled:
        what = f"off: keys can be read by whoever is between a client and {said}: set api.tls.enabled"
        found.append(Finding(Level.WARNING, "api.tls", what))
    if not any(is_valid(key, now) and key.scope is Scope.ADMIN for key in keys):
        found.append(Finding(Level.WARNING, "keys", "none has the scope admin: nobody can restore a backup from afar"))
    return found


def is_valid(key: Key, now: datetime) -> bool:
    return key.expires_at is None or key.expires_at > now


def key_findings(keys: Iterable[Key], now: datetime) -> list[Finding]:
    """Keys that have ended, or end soon."""
    found = []
    for key in keys:
        if key.expires_at is None or key.expires_at > now + _SOON:
            continue
        ended = not is_valid(key, now)
        said = f"{'expired' if ended else 'expires'} on {rfc3339(key.expires_at)}: " + (
            f"homed key revoke {key.id}" if ended else "make another one in time"
        )
        found.append(Finding(Level.WARNING, f"key {key.name}", said))
    return found


def certificate_findings(
    certificate: Certificate | None, needed: Iterable[str], now: datetime, trouble: str = ""
) -> list[Finding]:
    """`needed` are the names by which the board is called; `trouble` says why there is no certificate."""
    if certificate is None:
        return [Finding(Level.BAD, "certificate", trouble)] if trouble else []
    about = str(certificate.path)
    if certificate.not_after <= now:
        what = f"expired on {rfc3339(certificate.not_after)}: put a new one in its place, then systemctl reload homed"
        return [Finding(Level.BAD, about, what)]
    if certificate.not_before > now:
        what = f"is valid from {rfc3339(certificate.not_before)} only: is the clock right?"
        return [Finding(Level.BAD, about, what)]
    found = []
    if certificate.not_after <= now + _SOON and not certificate.self_signed:
        found.append(Finding(Level.WARNING, about, f"expires on {rfc3339(certificate.not_after)}: renew it"))
    missing = [name for name in needed if name not in certificate.names]
    if missing:
        what = f"does not name {', '.join(missing[:5])}: clients that check turn away"
        found.append(Finding(Level.WARNING, about, what))
    return found or [Finding(Level.OK, about, f"is valid until {rfc3339(certificate.not_after)}")]
