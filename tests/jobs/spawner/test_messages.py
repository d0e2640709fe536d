"""Messages arrive whole, however they are cut."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from homed.jobs.spawner.messages import Begun, Ended, Frames, Said, frame

_said = st.lists(
    st.builds(Begun, st.integers(0, 1 << 40), st.integers(1, 1 << 22), st.integers(0, 1 << 60))
    | st.builds(Ended, st.integers(0, 1 << 40), st.text(max_size=300), st.booleans()),
    max_size=10,
)


@given(said=_said, cuts=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_messages_arrive_whole_and_in_order(said: list[Said], cuts: list[int]) -> None:
    data = b"".join(frame(one) for one in said)
    frames, found, at = Frames[Said](msgspec.msgpack.Decoder(Said)), list[Said](), 0
    while at < len(data):
        for cut in cuts:
            found += frames.feed(data[at : at + cut])
            at += cut
    assert found == said
