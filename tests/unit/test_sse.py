"""Server-sent events from raw bytes, however they are cut."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.adapters.wire.sse import (
    MAX_EVENT_BYTES,
    EventDecoder,
    NamedEvent,
    NamedEventDecoder,
)
from app.domain.errors import UpstreamInterruptedError

NOT_LINE_ENDS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e"


def reference(raw: bytes) -> list[bytes]:
    """Decode a whole stream as the specification words it."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in re.split(rb"\r\n|\r|\n", raw)[:-1]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
        name, colon, value = line.partition(b":")
        if name == b"data" and colon:
            data.append(value.removeprefix(b" "))
    return events


def feed(raw: bytes, cuts: list[int]) -> list[bytes]:
    decoder = EventDecoder()
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    chunks = [raw[start:end] for start, end in itertools.pairwise(places)]
    return [event for chunk in chunks for event in decoder.feed(chunk)]


words = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])
    | st.sampled_from(NOT_LINE_ENDS + ": "),
    max_size=12,
)
lines = st.one_of(
    words.map(lambda text: f"data: {text}"),
    words.map(lambda text: f"data:{text}"),
    words.map(lambda text: f": {text}"),
    words.map(lambda text: f"id: {text}"),
    st.sampled_from(["event: x", "retry: 5", "data", "", "", ""]),
)
endings = st.sampled_from(["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"])
streams = st.lists(st.tuples(lines, endings).map("".join), max_size=25).map(
    lambda parts: ("".join(parts) + "\n\n").encode()
)


@given(streams, st.lists(st.integers(0, 10_000), max_size=30))
@example(b"data: a\r\ndata: b\r\n\r\n", list(range(20)))
@example("data: \u2028\u0085\x0b\r\r\n\n".encode(), list(range(20)))
def test_events_are_the_same_at_every_cut(raw: bytes, cuts: list[int]) -> None:
    assert feed(raw, cuts) == reference(raw)


@given(streams)
def test_events_are_the_same_byte_by_byte(raw: bytes) -> None:
    assert feed(raw, list(range(len(raw)))) == reference(raw)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_characters_that_only_look_like_line_ends_stay_in_the_data(end: str) -> None:
    text = f"a{NOT_LINE_ENDS}b"
    raw = f"data: {text}{end}{end}:{end}".encode()
    assert feed(raw, []) == [text.encode()]


def test_data_lines_are_joined_and_one_leading_space_is_dropped() -> None:
    assert EventDecoder().feed(b"data: a\ndata:b\ndata:  c\n\n") == [b"a\nb\n c"]


def test_comments_and_other_fields_are_no_events() -> None:
    assert EventDecoder().feed(b": ping\n\nid: 1\n\nevent: x\nretry: 1\n\n") == []


def test_an_event_is_given_out_as_soon_as_its_empty_line_is_there() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [b"a"]


def test_an_event_that_is_cut_off_is_never_given_out() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"whole":') == []
    assert decoder.feed(b"1}\n") == []


def test_an_event_of_eight_mebibytes_is_taken() -> None:
    decoder = EventDecoder()
    big = b"x" * (MAX_EVENT_BYTES - 6)
    assert decoder.feed(b"data: " + big) == []
    assert decoder.feed(b"\n\n") == [big]


@pytest.mark.parametrize("shape", ["one endless line", "many data lines", "an endless comment"])
def test_more_than_eight_mebibytes_without_an_end_are_refused(shape: str) -> None:
    piece = {
        "one endless line": b"x" * (1 << 20),
        "many data lines": b"data: " + b"x" * (1 << 20) + b"\n",
        "an endless comment": b":" * (1 << 20),
    }[shape]
    decoder = EventDecoder()
    decoder.feed(b"data: ")
    with pytest.raises(UpstreamInterruptedError) as caught:  # noqa: PT012 - at some piece
        for _ in range(9):
            decoder.feed(piece)
    assert caught.value.code == "upstream_garbage"


def test_many_small_events_never_reach_the_cap() -> None:
    decoder = EventDecoder()
    chunk = (b"data: " + b"x" * 1000 + b"\n\n") * 1000
    for _ in range(10):
        assert len(decoder.feed(chunk)) == 1000


def named_reference(raw: bytes) -> list[NamedEvent]:
    """Decode a whole stream with its events' names, as the specification words it."""
    events: list[NamedEvent] = []
    data: list[bytes] = []
    name = b""
    for line in re.split(rb"\r\n|\r|\n", raw)[:-1]:
        if not line:
            if data:
                events.append(NamedEvent(name.decode(errors="replace"), b"\n".join(data)))
            data, name = [], b""
        field, colon, value = line.partition(b":")
        if field == b"data" and colon:
            data.append(value.removeprefix(b" "))
        elif field == b"event" and colon:
            name = value.removeprefix(b" ")
    return events


@given(
    st.lists(
        st.sampled_from(
            [b"event: a", b"event:b", b"event", b"data: 1", b"data:2", b"id: 3", b": c", b"", b""]
        )
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_an_events_name_is_its_own_however_the_stream_is_cut(
    lines: list[bytes], newline: bytes, cuts: list[int]
) -> None:
    # What ends in a CR is only known to be over by what follows.
    raw = newline.join([*lines, b"", b"x"])
    decoder = NamedEventDecoder()
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    chunks = [raw[start:end] for start, end in itertools.pairwise(places)]
    assert [event for chunk in chunks for event in decoder.feed(chunk)] == named_reference(raw)


def test_a_named_event_has_a_bound_too() -> None:
    decoder = NamedEventDecoder()
    line = b"data: " + b"x" * (MAX_EVENT_BYTES // 2 + 1) + b"\n"
    assert decoder.feed(line) == []
    with pytest.raises(UpstreamInterruptedError):
        decoder.feed(line)
