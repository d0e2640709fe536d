"""The grammar of image names, as registries and Docker Engine have it (distribution/reference) (pure)."""

import re

_HEX = {"sha256": 64, "sha384": 96, "sha512": 128}
_MAX_NAME = 255
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
    r"(?::[0-9]{1,5})?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


def check(image: str) -> None:
    """Validate an image name: `[registry/]name[:tag][@sha256:…]`. Raises: ValueError, with the broken rule."""
    rest, at, digest = image.partition("@")
    if at:
        algorithm, _, digits = digest.partition(":")
        if not re.fullmatch(rf"[0-9a-f]{{{_HEX.get(algorithm, 1 << 12)}}}", digits):
            raise ValueError("a digest is sha256: and 64 hexadecimal digits in lower case")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise ValueError("a tag has 1 to 128 letters, digits, '_', '.' and '-', and begins with none of the last two")
    name = f"{head}{slash}{last}"
    if len(name) > _MAX_NAME:
        raise ValueError(f"a name may have at most {_MAX_NAME} characters")
    parts = name.split("/")
    if len(parts) > 1 and _is_host(parts[0]):
        if not _HOST.fullmatch(parts.pop(0)):
            raise ValueError("a registry is a host name or an address, with a port if it needs one")
    elif len(parts) == 1 and re.fullmatch("[a-f0-9]{64}", name):
        raise ValueError("an image is named, not given by its id")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(
            "each part of a name between '/' has lower-case letters and digits, with one '.', one or two '_' or any "
            "number of '-' between them"
        )


def _is_host(part: str) -> bool:
    """Return whether the first part is a registry rather than a user, by the engine's rule."""
    return part == "localhost" or "." in part or ":" in part
