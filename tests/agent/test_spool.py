"""Output on its way: whole characters, in order, bounded, and taken up again."""

import asyncio
import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homed.agent.spool import PIECE, Spool


async def written(path: Path, pieces: list[bytes], limit: int = 1 << 20) -> Spool:
    spool = Spool(path, limit, asyncio.Event())
    for piece in pieces:
        await spool.write(piece)
    await spool.finish()
    return spool


async def sent(spool: Spool) -> list[str]:
    texts = []
    while spool.waiting:
        texts.append(await spool.piece())
        spool.sent += len(texts[-1].encode())
    return texts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.text(max_size=50), st.integers(0, 2**32))
async def test_a_character_that_comes_in_parts_is_one(tmp_path: Path, text: str, seed: int) -> None:
    data, rng = text.encode(errors="replace"), random.Random(seed)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    path = tmp_path / str(seed)
    path.unlink(missing_ok=True)
    assert "".join(await sent(await written(path, pieces))) == data.decode()


async def test_a_piece_ends_between_two_characters(tmp_path: Path) -> None:
    text = "a" + "ñ" * PIECE
    texts = await sent(await written(tmp_path / "stdout", [text.encode()]))
    assert "".join(texts) == text and len(texts) == 3 and all(len(one.encode()) <= PIECE for one in texts)


async def test_what_is_no_utf8_is_marked(tmp_path: Path) -> None:
    assert await sent(await written(tmp_path / "stdout", [b"a\xffb\xc3"])) == ["a\ufffdb\ufffd"]


async def test_too_much_is_cut_counted_and_said(tmp_path: Path) -> None:
    (text,) = await sent(await written(tmp_path / "stdout", [b"abc", "ññ".encode(), b"def"], limit=6))
    assert text == "abcñ\n[output cut: 5 bytes of stdout were dropped]\n"


async def test_a_spool_is_taken_up_again_from_its_file(tmp_path: Path) -> None:
    await written(tmp_path / "stdout", [b"abc"])
    again = Spool(tmp_path / "stdout", 100, asyncio.Event())
    again.sent = 1
    assert again.waiting == 2 and await again.piece() == "bc"
