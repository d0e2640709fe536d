"""The algorithms of SSH that homed speaks: for any host, and those that are broken, for hosts that may use them (pure).

The names are written down here, rather than taken from the library's defaults, so that an update of the library neither
cuts off a host nor lets in what is weak.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_MAX_SHOWN: Final = 10
_MAX_NAME: Final = 64


class Algorithms(NamedTuple):
    """By kind, the preferred first; all that is spoken with any host, or that an old one may have besides."""

    key_exchange: tuple[str, ...]
    host_key: tuple[str, ...]
    encryption: tuple[str, ...]
    mac: tuple[str, ...]


MODERN: Final = Algorithms(
    key_exchange=(
        "mlkem768x25519-sha256",
        "sntrup761x25519-sha512@openssh.com",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group18-sha512",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha1",
    ),
    host_key=(
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ),
    encryption=(
        "chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
    ),
    mac=(
        "umac-128-etm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha1-etm@openssh.com",
        "umac-64-etm@openssh.com",
        "umac-128@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
        "hmac-sha1",
        "umac-64@openssh.com",
    ),
)
LEGACY: Final = Algorithms(
    key_exchange=("diffie-hellman-group-exchange-sha1", "diffie-hellman-group1-sha1"),
    host_key=("ssh-rsa",),
    encryption=("aes256-cbc", "aes192-cbc", "aes128-cbc", "3des-cbc"),
    mac=("hmac-sha2-256-96", "hmac-sha1-96", "hmac-md5", "hmac-md5-96"),
)
_KINDS: Final = Algorithms(("key exchange",), ("host key",), ("cipher",), ("MAC",))


class Mismatch(NamedTuple):
    """A kind of algorithm of which a host offers none that may be used. `legacy` are those that can be allowed."""

    kind: str
    offered: Sequence[str]
    legacy: Sequence[str]


def spoken(known: Mapping[str, Sequence[str]] | None = None, *, legacy: bool) -> Algorithms:
    """The algorithms for a host. `known` are the names that the library has, by the kinds' names; None for all."""
    both = Algorithms(*(new + old * legacy for new, old in zip(MODERN, LEGACY, strict=True)))
    if known is None:
        return both
    return Algorithms(
        *(
            tuple(name for name in names if name in known[kind])
            for kind, names in zip(Algorithms._fields, both, strict=True)
        )
    )


def mismatch(ours: Algorithms, offered: Sequence[Sequence[str]]) -> Mismatch | None:
    """Return the first kind of which nothing is in common. `offered` has the same order as Algorithms, and may have the
    last two twice, for both directions.
    """
    kinds = (0, 1, 2, 2, 3, 3) if len(offered) == 6 else (0, 1, 2, 3)
    sealed = _authenticates(ours, offered)
    for at, names in zip(kinds, offered, strict=True):
        if at == 3 and sealed:
            continue  # the cipher needs no MAC
        if not set(ours[at]) & set(names):
            shown = [name[:_MAX_NAME] for name in names[:_MAX_SHOWN]]
            return Mismatch(_KINDS[at][0], shown, [name for name in shown if name in LEGACY[at]])
    return None


def _authenticates(ours: Algorithms, offered: Sequence[Sequence[str]]) -> bool:
    chosen = next((name for name in ours.encryption if name in offered[2]), "")
    return "gcm" in chosen or "poly1305" in chosen
