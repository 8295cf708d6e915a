"""A form with a file is read alike, however it is cut into pieces."""

import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.multipart import FORM_BYTES, FormError, UploadForm

BOUNDARY = "x-y"
HEADERS = {"content-type": f'multipart/form-data; boundary="{BOUNDARY}"'}
FILE = 'Content-Disposition: form-data; name="file"; filename="a b.png"\r\nContent-Type: x/y'


def form(*parts: tuple[str, bytes], end: str = "--\r\n") -> bytes:
    written = b""
    for head, content in parts:
        written += f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    return written + f"--{BOUNDARY}{end}".encode()


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


async def read(
    body: bytes, cuts: Sequence[int] = (), headers: dict[str, str] = HEADERS
) -> tuple[bytes | None, UploadForm]:
    """Read a form that arrives in pieces; return its file's content."""

    async def pieces() -> AsyncIterator[bytes]:
        places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
        for start, end in itertools.pairwise(places):
            yield body[start:end]

    found = UploadForm(headers, pieces())
    content = await found.begin()
    return (None if content is None else b"".join([piece async for piece in content])), found


@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.sampled_from([b"\r\n", b"--", b"x-y", b"\r\n--x-", b"\r", b"\r\n--x-z", b"a"])
        ).map(b"".join),
    ),
    cuts=st.lists(st.integers(0, 1000), max_size=40),
    is_first=st.booleans(),
)
async def test_a_file_is_what_was_sent_wherever_it_is_cut(
    content: bytes, cuts: list[int], *, is_first: bool
) -> None:
    if b"\r\n--x-y" in b"\r\n" + content:
        return
    parts = [(FILE, content), (field("purpose"), b"vision")]
    body = form(*(parts if is_first else parts[::-1]))
    got, found = await read(body, cuts)
    assert got == content
    assert found.filename == "a b.png"
    assert found.fields == {"purpose": "vision"}


@given(size=st.integers(0, 400))
async def test_a_form_that_is_cut_off_is_never_whole(size: int) -> None:
    body = form((field("purpose"), b"vision"), (FILE, b"content" * 20), end="--")
    if size >= len(body):
        assert (await read(body))[0] == b"content" * 20
        return
    with pytest.raises(FormError):
        await read(body[:size])


@given(body=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
async def test_garbage_is_refused_and_nothing_else(body: bytes, cuts: list[int]) -> None:
    rest = body.replace(b"x-y", b"")
    if rest.startswith(b"--"):
        # No garbage: a form without a field, and an epilogue.
        content, found = await read(b"--x-y" + rest, cuts)
        assert (content, found.fields) == (None, {})
        return
    with pytest.raises(FormError):
        await read(b"--x-y" + rest, cuts)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form((field("a"), b"x" * FORM_BYTES), (FILE, b"1")), 413),
        (form((FILE, b"1"), (field("a"), b"x" * FORM_BYTES)), 413),
        (form(("X-Long: " + "y" * FORM_BYTES, b"1")), 413),
        (form(*[(field(str(n)), b"") for n in range(3000)], (FILE, b"1")), 413),
        (form((field("a"), b"1"), (field("a"), b"2"), (FILE, b"1")), 400),
        (form((FILE, b"1"), (FILE, b"2")), 400),
        (form(("Content-Type: text/plain", b"1")), 400),
        (b"preamble\r\n" + form((FILE, b"1")), 400),
    ],
)
async def test_forms_out_of_bounds_are_refused(body: bytes, status: int) -> None:
    with pytest.raises(FormError) as caught:
        await read(body)
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=x-y"],
)
async def test_other_bodies_are_no_forms(content_type: str) -> None:
    with pytest.raises(FormError) as caught:
        await read(form((FILE, b"1")), headers={"content-type": content_type})
    assert caught.value.status_code == 415


async def test_a_form_without_a_file_has_none() -> None:
    got, found = await read(form((field("purpose"), b"vision")))
    assert got is None
    assert found.fields == {"purpose": "vision"}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"say \"hi\".png", 'say "hi".png'),
        ("say %22hi%22.png", 'say "hi".png'),
        ("숙제.png", "숙제.png"),
        ("a; name=evil.png", "a; name=evil.png"),
    ],
)
async def test_names_are_read_as_browsers_and_others_write_them(written: str, name: str) -> None:
    head = f'Content-Disposition: form-data; name="file"; filename="{written}"'
    _, found = await read(form((head, b"1")))
    assert found.filename == name
