"""Trees to back up, the same in every run: mixed files as services have them, and very many small ones."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_SEED: Final = 20_261_121
_KB, _MB = 1000, 10**6
# How much of a mixed tree is in files of which sizes.
_SHARES: Final = ((0.50, 16 * _MB, 64 * _MB), (0.35, 256 * _KB, 4 * _MB), (0.15, 4 * _KB, 64 * _KB))
_IN_A_FOLDER: Final = 100
_SMALLEST, _LARGEST = 100, 2000
_PAGE: Final = 4096
_NOISE: Final = random.Random(_SEED)
_WORDS: Final = [
    "".join(_NOISE.choices("abcdefghijklmnopqrstuvwxyz0123456789-_./:", k=_NOISE.randint(2, 14))).encode() + b" "
    for _ in range(256)
]


class Tree(NamedTuple):
    """`size` is of the files' contents, in bytes."""

    path: Path
    size: int
    files: int


def mixed(path: Path, size: int) -> Tree:
    """Files of 4 kB to 64 MB: two fifths are text, three tenths cannot be compressed, the rest is half of each."""
    noise = random.Random(_SEED)
    written = count = 0
    for number, length in enumerate(_lengths(noise, size)):
        folder = path / f"{number % 40:02}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number:05}").write_bytes(_content(noise, number % 10, length))
        written, count = written + length, count + 1
    return Tree(path, written, count)


def small(path: Path, count: int) -> Tree:
    """Files of 100 to 2,000 bytes of text, a hundred in a folder."""
    noise = random.Random(_SEED)
    written = 0
    for number in range(count):
        if number % _IN_A_FOLDER == 0:
            folder = os.fspath(path / f"{number // _IN_A_FOLDER:05}")
            os.makedirs(folder)
        content = _text(noise, noise.randint(_SMALLEST, _LARGEST))
        with open(f"{folder}/{number % _IN_A_FOLDER:02}.json", "wb", buffering=0) as file:
            file.write(content)
        written += len(content)
    return Tree(path, written, count)


def change(tree: Tree, share: float, turn: int) -> int:
    """Write as much of it anew, whole files that go by `turn`; returns the bytes."""
    files = sorted(path for path in tree.path.rglob("*") if path.is_file())
    noise = random.Random(_SEED + 1 + turn)
    noise.shuffle(files)
    wanted, written = share * tree.size, 0
    for path in files:
        length = path.stat().st_size
        if written + length <= 1.05 * wanted:
            path.write_bytes(_content(noise, turn % 10, length))
            written += length
    return written


def read(tree: Tree) -> None:
    """Have all of it in the page cache."""
    for folder, _, names in os.walk(tree.path):
        for name in names:
            with open(os.path.join(folder, name), "rb", buffering=0) as file:
                while file.read(_MB):
                    pass


def _lengths(noise: random.Random, size: int) -> Iterator[int]:
    for share, least, most in _SHARES:
        left = int(share * size)
        while left > 0:
            length = min(left, noise.randint(min(least, size // 20), min(most, size // 10)))
            yield length
            left -= length


def _content(noise: random.Random, kind: int, length: int) -> bytes:
    if kind < 4:
        return _text(noise, length)
    if kind < 7:
        return noise.randbytes(length)
    half = _PAGE // 2
    text, rest = _text(noise, length), noise.randbytes(length // 2 + _PAGE)
    pages = (text[i * half : (i + 1) * half] + rest[i * half : (i + 1) * half] for i in range(length // _PAGE + 1))
    return b"".join(pages)[:length]


def _text(noise: random.Random, length: int) -> bytes:
    return b"".join([_WORDS[one] for one in noise.randbytes(length // 3 + 16)])[:length]
