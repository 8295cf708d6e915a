"""Files of exported threads: any line is read or told of, and no order of lines is another."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.exports.decode import NO_FILE, NO_PICTURE
from app.adapters.exports.file import opened
from app.adapters.exports.lines import MAX_LINE_BYTES, lines
from app.domain.history import Loss, PastThread
from app.domain.models import MessageStatus, Part, PartKind, RunStatus, Usage
from tests.exported import T0, WORDS, dialogue, run, said, thread, written

REASONS = {
    "line_too_long", "not_utf8", "not_json", "too_deep", "not_an_object", "not_a_list",
    "unsupported_object", "unknown_object", "no_id", "no_thread", "no_created_at",
    "unknown_role", "unknown_status", "no_content", "too_long", "metadata", "attachment",
    "picture", "file", "unknown_part", "annotation", "usage",
}  # fmt: skip


def read(
    folder: Path, *objects: Any, owner: tuple[str, ...] = ()
) -> tuple[list[PastThread], list[Loss]]:
    file = folder / "export.jsonl"
    file.write_bytes(written(objects))
    losses: list[Loss] = []
    with opened(str(file), losses.append, owner_path=owner) as export:
        ends = list(export.scan())
        assert not ends or ends[-1] == export.size == file.stat().st_size
        threads = list(export.threads())
        assert len(threads) == export.count()
    return threads, losses


def texts(found: PastThread) -> list[str]:
    return ["".join(part.text for part in message.content) for message in found.messages]


WHOLE = ["question 0 " + WORDS, "answer 0", "question 1 " + WORDS, "answer 1"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not_json"),
        (b'{"object": "thread", "id": NaN}', "not_json"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not_json"),
        (b'\xff\xfe{"id": 1}', "not_utf8"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b"17", "not_an_object"),
        (b'"pythagoras-canary"', "not_an_object"),
        (b"[]", "not_an_object"),
        (b"{}", "unknown_object"),
        (b'{"object": ["thread"]}', "unknown_object"),
        ({"object": "list", "data": "no list"}, "unknown_object"),
        ({"object": "list", "data": [WORDS]}, "not_an_object"),
        ({"object": "assistant", "id": "asst_1"}, "unsupported_object"),
        ({"object": "thread.run.step", "id": "step_1"}, "unsupported_object"),
        ({"object": "thread"}, "no_id"),
        ({"object": "thread", "id": f"{WORDS} said this"}, "no_id"),
        ({"object": "thread", "id": "x" * 129}, "no_id"),
        (said(99, WORDS) | {"thread_id": None}, "no_thread"),
        ({"thread": WORDS, "messages": []}, "unknown_object"),
        ({"thread": {"id": "thread_1"}, "messages": WORDS}, "not_a_list"),
    ],
)
def test_a_line_that_cant_be_read_is_told_by_its_number_and_the_rest_is_taken(
    tmp_path: Path, line: Any, reason: str
) -> None:
    whole = dialogue()
    (found,), losses = read(tmp_path, *whole[:3], line, b"", b"  \r", *whole[3:])
    assert texts(found) == WHOLE
    assert losses == [Loss(reason, 4)]
    assert WORDS not in str(losses)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (said(99, WORDS, created_at=None), "no_created_at"),
        (said(99, WORDS, created_at="2024-07-31"), "no_created_at"),
        (said(99, WORDS, created_at=True), "no_created_at"),
        (said(99, WORDS, created_at=-1), "no_created_at"),
        (said(99, WORDS, created_at=10**300), "no_created_at"),
        (said(99, WORDS, role="system"), "unknown_role"),
        (said(99, WORDS, role={}), "unknown_role"),
        (said(99, WORDS, status="lost"), "unknown_status"),
        (said(99, WORDS, content=None), "no_content"),
        (said(99, WORDS, content={"type": "text"}), "no_content"),
        (said(99, "x" * 256_001), "too_long"),
        (run(99, status="done"), "unknown_status"),
        (run(99, status=None), "unknown_status"),
        (run(99, created_at=1e400), "not_json"),
    ],
)
def test_an_object_that_cant_be_taken_is_told_by_its_id(
    tmp_path: Path, item: Any, reason: str
) -> None:
    if reason == "not_json":
        item = json.dumps(item).encode()  # `Infinity`, which is no JSON
    (found,), losses = read(tmp_path, *dialogue(), item)
    assert texts(found) == WHOLE
    assert len(found.runs) == 2
    if isinstance(item, bytes):
        assert losses == [Loss(reason, 8)]
    else:
        assert losses == [Loss(reason, 8, "thread_1", item["id"])]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"": "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {"k\n": "v"}}, "metadata"),
        ({"metadata": {"k\ud800": "v"}}, "metadata"),
        ({"metadata": [WORDS]}, "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"attachments": [{"file_id": "file_1", "tools": []}]}, "attachment"),
        ({"content": [{"type": "image_file", "image_file": {"file_id": "f"}}]}, "picture"),
        ({"content": [{"type": "image_url", "image_url": {"url": WORDS}}]}, "picture"),
        ({"content": [{"type": "file", "file_id": "f"}]}, "file"),
        ({"content": [{"type": "hologram", "text": WORDS}]}, "unknown_part"),
        ({"content": [WORDS]}, "unknown_part"),
        ({"content": [{"type": "text", "text": {"value": None}}]}, "unknown_part"),
        (
            {"content": [{"type": "text", "text": {"value": "a", "annotations": [1]}}]},
            "annotation",
        ),
        ({"content": [{"type": "text", "text": {"value": "a", "annotations": {}}}]}, "annotation"),
    ],
)
def test_what_of_a_message_has_no_place_here_is_told_and_the_message_is_taken(
    tmp_path: Path, change: Any, reason: str
) -> None:
    (found,), losses = read(tmp_path, thread(), said(1, "a", **change))
    assert losses == [Loss(reason, 2, "thread_1", "msg_thread_1_1")]
    assert len(found.messages) == 1
    assert len(found.messages[0].metadata) <= 16
    assert found.messages[0].status is MessageStatus.COMPLETED


def test_where_a_file_stood_words_say_so(tmp_path: Path) -> None:
    content = [
        {"type": "text", "text": {"value": "look", "annotations": []}},
        {"type": "image_file", "image_file": {"file_id": "file_1"}},
    ]
    (found,), _ = read(tmp_path, said(1, "", content=content, attachments=[{"file_id": "file_2"}]))
    assert [part.text for part in found.messages[0].content] == ["look", NO_PICTURE, NO_FILE]


def test_text_that_postgres_refuses_is_cleaned_everywhere(tmp_path: Path) -> None:
    bad, good = "a\x00b\ud800c\ud83d\ude00", "a\ufffdb\ufffdc\N{GRINNING FACE}"
    note = {"type": "file_citation", "text": bad, "start_index": 1, "end_index": 2}
    note["file_citation"] = {"file_id": bad, "quote": bad}
    content = [
        {"type": "text", "text": {"value": bad, "annotations": [note]}},
        {"type": "refusal", "refusal": bad},
    ]
    line = said(1, "", content=content, metadata={"k": bad}, run_id="run_1")
    told = run(1, model=bad)
    (found,), losses = read(tmp_path, thread(metadata={"k": bad}), line, told)
    assert losses == []
    flat = {
        "type": "file_citation",
        "text": good,
        "start_index": 1,
        "end_index": 2,
        "file_id": good,
        "quote": good,
    }
    (message,) = found.messages
    assert message.content == [Part(good, annotations=(flat,)), Part(good, PartKind.REFUSAL)]
    assert message.metadata == found.metadata == {"k": good}
    assert found.runs[0].model == good


def test_a_null_status_is_a_completed_message(tmp_path: Path) -> None:
    (found,), losses = read(tmp_path, said(1, "a", status=None, run_id="run_1"))
    assert not losses
    assert found.messages[0].status is MessageStatus.COMPLETED


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ("completed", RunStatus.COMPLETED, None),
        ("failed", RunStatus.FAILED, "upstream_rate_limited"),
        ("cancelled", RunStatus.CANCELLED, None),
        ("incomplete", RunStatus.INCOMPLETE, None),
        ("expired", RunStatus.EXPIRED, None),
        ("queued", RunStatus.EXPIRED, "run_unfinished"),
        ("in_progress", RunStatus.EXPIRED, "run_unfinished"),
        ("requires_action", RunStatus.EXPIRED, "run_unfinished"),
        ("cancelling", RunStatus.CANCELLED, "run_unfinished"),
    ],
)
def test_every_run_has_ended(
    tmp_path: Path, told: str, status: RunStatus, code: str | None
) -> None:
    error = {"code": "rate_limit_exceeded", "message": WORDS}
    (found,), losses = read(tmp_path, run(1, status=told, last_error=error))
    (past,) = found.runs
    assert not losses
    assert (past.status, past.error_code) == (status, code)
    assert past.usage == Usage(3, 4, 7)
    assert WORDS not in str(found)


def test_a_usage_that_is_none_is_told_and_the_run_is_taken(tmp_path: Path) -> None:
    usage = {"prompt_tokens": -1, "completion_tokens": 4, "total_tokens": 7}
    (found,), losses = read(tmp_path, run(1, usage=usage))
    assert found.runs[0].usage is None
    assert losses == [Loss("usage", 1, "thread_1", "run_thread_1_1")]


def test_pages_and_bundles_hold_what_single_lines_do(tmp_path: Path) -> None:
    head, *rest = dialogue()
    messages = [item for item in rest if item["object"] == "thread.message"]
    runs = [item for item in rest if item["object"] == "thread.run"]
    page = {"object": "list", "data": messages[::-1], "has_more": False}
    singles, _ = read(tmp_path, head, *rest)
    for lines_ in (
        [{"object": "list", "data": runs[::-1]}, page, head],
        [{"thread": head, "messages": messages, "runs": runs}],
        [{"thread": head, "messages": page, "runs": {"object": "list", "data": runs[::-1]}}],
    ):
        assert read(tmp_path, *lines_) == (singles, [])


def test_bundled_messages_need_not_name_their_thread(tmp_path: Path) -> None:
    bare = {k: v for k, v in said(1, "a").items() if k not in {"thread_id", "object"}}
    (found,), losses = read(tmp_path, {"thread": thread(), "messages": [bare]})
    assert (texts(found), losses) == (["a"], [])


@pytest.mark.parametrize("in_page", [False, True])
@pytest.mark.parametrize("newest_first", [False, True])
def test_what_was_said_in_one_second_keeps_the_servers_order(
    tmp_path: Path, *, in_page: bool, newest_first: bool
) -> None:
    told = [
        said(n, str(n), created_at=T0 + n // 4, **({"run_id": f"run_{n}"} if n % 2 else {}))
        for n in range(8)
    ]
    if newest_first:
        told.reverse()
    objects: list[Any] = [{"object": "list", "data": told}] if in_page else told
    (found,), _ = read(tmp_path, *objects)
    assert texts(found) == [str(n) for n in range(8)]


@pytest.mark.parametrize("newest_first", [False, True])
def test_if_all_was_said_in_one_second_a_conversation_begins_with_its_question(
    tmp_path: Path, *, newest_first: bool
) -> None:
    told = [
        said(n, str(n), created_at=T0, **({"run_id": f"run_{n}"} if n % 2 else {}))
        for n in range(4)
    ]
    (found,), _ = read(tmp_path, {"object": "list", "data": told[:: -1 if newest_first else 1]})
    assert texts(found) == ["0", "1", "2", "3"]


def test_a_message_that_comes_twice_is_taken_once_as_it_was_last(tmp_path: Path) -> None:
    early = said(1, "so", status="in_progress", run_id="run_1")
    (found,), _ = read(tmp_path, early, said(1, "so far", run_id="run_1"))
    assert texts(found) == ["so far"]
    (before,), _ = read(tmp_path, early)
    assert before.digest != found.digest


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"user_id": "alice"}, "alice"),
        ({"user_id": 17}, "17"),
        ({"user_id": True}, None),
        ({"user_id": ["alice"]}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_thread_may_name_its_owner(tmp_path: Path, metadata: Any, owner: str | None) -> None:
    (found,), _ = read(tmp_path, thread(metadata=metadata), owner=("metadata", "user_id"))
    assert found.owner == owner


def test_a_line_that_is_too_long_is_passed_over_without_being_held(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"x" * 5_000_000 + b"\n" + b"short\n" + b"y" * 10 + b"\nlast")
    with file.open("rb") as open_:
        found = list(lines(open_, most_bytes=10))
    assert [(line.number, line.data) for line in found] == [
        (1, None),
        (2, b"short\n"),
        (3, b"y" * 10 + b"\n"),
        (4, b"last"),
    ]
    assert found[-1].end == file.stat().st_size
    assert MAX_LINE_BYTES >= 100 * 256_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = ("object", "id", "thread_id", "created_at", "role", "status", "content", "metadata")
damaged = st.builds(
    lambda item, field, value: item | {field: value},
    st.sampled_from([thread("thread_2"), said(9, WORDS, of="thread_2"), run(9, of="thread_2")]),
    st.sampled_from([*FIELDS, "usage", "attachments", "run_id", "incomplete_details"]),
    json_values,
)
bundled = st.fixed_dictionaries(
    {"thread": damaged},
    optional={"messages": json_values | st.lists(damaged), "runs": json_values},
)
junk = st.one_of(
    st.binary(max_size=40).filter(lambda data: b"\n" not in data),
    json_values.map(lambda value: json.dumps(value).encode()),
    damaged,
    bundled,
    st.lists(damaged | json_values, max_size=3).map(lambda data: {"object": "list", "data": data}),
)


@given(junk=st.lists(junk, max_size=6), data=st.data())
def test_nothing_that_stands_between_its_lines_changes_a_thread(
    tmp_path_factory: pytest.TempPathFactory, junk: list[Any], data: st.DataObject
) -> None:
    mixed = data.draw(st.permutations([*dialogue(), *junk]))
    found, losses = read(tmp_path_factory.mktemp("any"), *mixed)
    ((expected,), _) = read(tmp_path_factory.mktemp("bare"), *dialogue())
    assert [one for one in found if one.id == "thread_1"] == [expected]
    assert {loss.reason for loss in losses} <= REASONS
    assert all(loss.line is not None and 1 <= loss.line <= len(mixed) for loss in losses)
    assert WORDS not in str(losses)
