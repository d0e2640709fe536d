"""Docker images made on the machine, without a registry or an engine: a static busybox in a tar."""

import hashlib
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final

from .board import Board
from .cache import cached, key
from .process import command

IMAGE: Final = "homed-test/busybox:1"

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}

_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "www/index.html": "busybox\n",
}


def busybox_image(
    root: Path, tag: str = IMAGE, cmd: Sequence[str] = ("sh",), files: Mapping[str, str] | None = None
) -> Path:
    """A tar for `docker load`: the root's busybox with all its applets, and `files`, text by path."""
    binary = root / "usr/bin/busybox"
    texts = {**_FILES, **{path.lstrip("/"): text for path, text in (files or {}).items()}}
    name = f"image-{key(binary.read_bytes(), tag, *cmd, json.dumps(texts, sort_keys=True))}.tar"
    return cached(name, partial(_write_image, binary=binary, tag=tag, cmd=cmd, texts=texts))


def load_image(board: Board, archive: Path) -> None:
    """Give an image to the board's Docker Engine."""
    board.run("docker", "load", "--quiet", input=archive.read_bytes())


def _write_image(target: Path, binary: Path, tag: str, cmd: Sequence[str], texts: Mapping[str, str]) -> None:
    layer = _layer(binary.read_bytes(), command(binary, "--list").split(), texts)
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": list(cmd), "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "the boards' rig"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for name, data in (("manifest.json", manifest), (config_name, config), ("layer.tar", layer)):
            _add(archive, name, data)


def _layer(busybox: bytes, applets: Iterable[str], texts: Mapping[str, str]) -> bytes:
    """The one layer, the same bytes each time, so that the image's digest is as well."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for directory, mode in (
            ("bin", 0o755),
            ("etc", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
            ("www", 0o755),
        ):
            _add(archive, directory, kind=tarfile.DIRTYPE, mode=mode)
        _add(archive, "bin/busybox", busybox, mode=0o755)
        for applet in sorted(set(applets) - {"busybox"}):
            _add(archive, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        for path, text in sorted(texts.items()):
            _add(archive, path, text.encode())
    return packed.getvalue()


def _add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    link: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
    archive.addfile(entry, BytesIO(data))
