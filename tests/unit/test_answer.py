"""The one answer of a run: whatever came through, its deltas add up to the final text."""

from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from app.adapters.postgres.database import PostgresDatabase
from app.domain.events import Delta, Draft, MessageChanged, Withdrawal
from app.domain.models import Message, MessageStatus, Part, PartKind, Role, Run, RunStatus
from app.domain.text import clean
from app.ports import Claim, Thread
from app.services.answer import Answer
from app.services.publisher import Publisher, RunLog

RUN = Run(
    id="run_1",
    session_id="sess_1",
    assistant_id="asst_1",
    assistant_version=1,
    model="m",
    status=RunStatus.IN_PROGRESS,
    attempts=1,
    input_message_id="msg_0",
    output_message_id=None,
    metadata={},
    turn=1,
)
CLAIM = Claim(
    run=RUN,
    fence=1,
    last_seq=3,
    thread=Thread(None, 0, None),
    response_id=None,
    is_takeover=False,
    handovers=0,
    remaining=timedelta(seconds=600),
    safety_id="x",
)
DATABASE = PostgresDatabase("postgres://nobody@127.0.0.1:1/none", pool_size=2)
"""Never connected to."""


def a_log() -> RunLog:
    """Return a log that nobody writes: what it would write is taken from it."""
    return Publisher(DATABASE).open(CLAIM)


def shown(drafts: list[Draft]) -> list[str]:
    """Add up what a reader of these events shows: text by part."""
    parts: dict[int, str] = {}
    for draft in drafts:
        if isinstance(draft, Withdrawal):
            parts = {part: text for part, text in parts.items() if part < draft.from_part}
        elif isinstance(draft, Delta):
            parts[draft.part] = parts.get(draft.part, "") + "".join(draft.texts)
    return [parts.get(part, "") for part in range(max(parts, default=-1) + 1)]


def without_empty_end(texts: list[str]) -> list[str]:
    while texts and not texts[-1]:
        texts = texts[:-1]
    return texts


letters = st.text(st.sampled_from("ab\x00\ud83d\ude00\r\n\u2028\N{GRINNING FACE}"), max_size=6)
finals = st.lists(letters, max_size=4)
deltas = st.lists(st.tuples(st.integers(0, 3), letters), max_size=12)
shown_before = st.none() | st.lists(letters.map(clean), max_size=3)


def earlier(texts: list[str] | None) -> Message | None:
    if texts is None:
        return None
    return Message(
        id="msg_1",
        session_id="sess_1",
        run_id="run_1",
        role=Role.ASSISTANT,
        status=MessageStatus.IN_PROGRESS,
        content=tuple(map(Part, texts)),
        metadata={},
        seq=3,
    )


@given(deltas, finals)
@example([(0, "ab")], ["ab"])
@example([(0, "ab")], ["a"])
@example([(0, "a"), (0, "a")], ["a"])
@example([(1, "b")], ["a", "b"])
@example([(0, "\ud83d"), (0, "\ude00")], ["\N{GRINNING FACE}"])
@example([(0, "a"), (1, "b")], ["a"])
@example([], [])
def test_whatever_came_the_deltas_since_the_last_reset_are_the_final_text(
    stream: list[tuple[int, str]], final: list[str]
) -> None:
    log = a_log()
    answer = Answer(log, RUN, None)
    for part, text in stream:
        answer.grow(part, text, PartKind.TEXT)
    answer.agree([Part(text) for text in final])
    ends = answer.end(MessageStatus.COMPLETED)
    told = without_empty_end(shown(log.take().drafts))
    assert told == without_empty_end([clean(text) for text in final])
    (end,) = ends
    assert isinstance(end, MessageChanged)
    assert without_empty_end([part.text for part in end.message.content]) == told
    assert end.type == "message.completed"


@given(shown_before, deltas, finals)
def test_a_later_holder_of_the_run_corrects_what_an_earlier_one_showed(
    before: list[str] | None, stream: list[tuple[int, str]], final: list[str]
) -> None:
    log = a_log()
    answer = Answer(log, RUN, earlier(before))
    answer.withdraw("resumed")
    for part, text in stream:
        answer.grow(part, text, PartKind.TEXT)
    answer.agree([Part(text) for text in final])
    already: list[Draft] = [
        Delta("msg_1", "run_1", part, [text]) for part, text in enumerate(before or [])
    ]
    told = without_empty_end(shown([*already, *log.take().drafts]))
    assert told == without_empty_end([clean(text) for text in final])


@given(st.text("ab", min_size=1, max_size=8), st.integers(0, 8))
def test_what_is_only_missing_is_added_without_a_reset(text: str, seen: int) -> None:
    log = a_log()
    answer = Answer(log, RUN, None)
    if text[:seen]:
        answer.grow(0, text[:seen], PartKind.TEXT)
    answer.agree([Part(text)])
    drafts = log.take().drafts
    assert not [draft for draft in drafts if isinstance(draft, Withdrawal)]
    assert shown(drafts) == [text]


def pieces(texts: list[str], sizes: list[int]) -> list[tuple[int, str]]:
    """Cut the parts of an answer into deltas."""
    found: list[tuple[int, str]] = []
    turn = 0
    for part, text in enumerate(texts):
        at = 0
        while at < len(text):
            size = sizes[turn % len(sizes)]
            found.append((part, text[at : at + size]))
            at, turn = at + size, turn + 1
    return found


cuts = st.lists(st.integers(1, 4), min_size=1, max_size=4)
plain_parts = st.lists(st.text("ab", max_size=8), max_size=3)


@given(plain_parts, cuts, cuts, st.integers(0, 24), st.integers(0, 24))
@example(["abab"], [1], [2], 1, 4)
@example(["ab", "ba"], [1], [1], 3, 1)
def test_what_is_heard_again_is_shown_once(
    final: list[str], sizes: list[int], others: list[int], seen: int, cut: int
) -> None:
    log = a_log()
    answer = Answer(log, RUN, None)
    for part, text in pieces(final, sizes)[:seen]:
        answer.grow(part, text, PartKind.TEXT)
    # A stream that is cut again, wherever it was, and one that comes to the end.
    for whole in (pieces(final, others)[:cut], pieces(final, sizes)):
        answer.hear_again()
        for part, text in whole:
            answer.grow(part, text, PartKind.TEXT)
    assert not answer.is_repeated
    drafts = log.take().drafts
    assert not [draft for draft in drafts if isinstance(draft, Withdrawal)]
    assert without_empty_end(shown(drafts)) == without_empty_end(final)


@given(shown_before, deltas, finals)
@example(["ab"], [(0, "aa")], ["aa"])
@example(["ab", "ab"], [(0, "ab"), (1, "b")], ["ab", "b"])
@example(["ab"], [(0, "a")], ["a"])
@example(["ab"], [], ["ab"])
def test_another_answer_than_the_one_shown_is_told_from_its_beginning(
    before: list[str] | None, stream: list[tuple[int, str]], final: list[str]
) -> None:
    log = a_log()
    answer = Answer(log, RUN, earlier(before))
    answer.hear_again()
    for part, text in stream:
        answer.grow(part, text, PartKind.TEXT)
    already: list[Draft] = [
        Delta("msg_1", "run_1", part, [text]) for part, text in enumerate(before or [])
    ]
    answer.agree([Part(text) for text in final])
    (end,) = answer.end(MessageStatus.COMPLETED)
    told = without_empty_end(shown([*already, *log.take().drafts]))
    assert told == without_empty_end([clean(text) for text in final])
    assert isinstance(end, MessageChanged)
    assert without_empty_end([part.text for part in end.message.content]) == told


def test_a_contradiction_is_withdrawn_when_it_is_heard() -> None:
    log = a_log()
    answer = Answer(log, RUN, earlier(["abc", "de"]))
    answer.hear_again()
    for part, text in ((0, "abc"), (1, "d"), (1, "x")):
        answer.grow(part, text, PartKind.TEXT)
    drafts = log.take().drafts
    assert isinstance(drafts[0], Withdrawal)
    assert (drafts[0].from_part, drafts[0].reason) == (0, "corrected")
    assert shown(drafts) == ["abc", "dx"]


def test_the_message_is_created_once_and_before_its_first_delta() -> None:
    log = a_log()
    answer = Answer(log, RUN, None)
    answer.grow(0, "a", PartKind.TEXT)
    answer.withdraw("retried")
    answer.grow(0, "b", PartKind.TEXT)
    assert [draft.type for draft in log.take().drafts] == [
        "message.created",
        "message.delta",
        "message.reset",
        "message.delta",
    ]


def test_nothing_is_withdrawn_when_nothing_was_shown() -> None:
    log = a_log()
    answer = Answer(log, RUN, None)
    answer.withdraw("retried")
    assert log.take().drafts == []
    assert answer.message_id is None
    assert not answer.has_text


def test_a_completed_run_has_a_message_even_without_text() -> None:
    answer = Answer(a_log(), RUN, None)
    assert [draft.type for draft in answer.end(MessageStatus.COMPLETED)] == ["message.completed"]


def test_a_run_that_failed_before_its_first_word_has_no_message() -> None:
    answer = Answer(a_log(), RUN, None)
    assert answer.end(MessageStatus.INCOMPLETE) == []


def test_refusals_and_annotations_reach_the_message() -> None:
    notes = [{"type": "url_citation", "url": "https://x.test"}]
    answer = Answer(a_log(), RUN, None)
    content = [Part("a", PartKind.TEXT, tuple(notes)), Part("no", PartKind.REFUSAL)]
    answer.agree(content)
    (end,) = answer.end(MessageStatus.COMPLETED, content)
    assert isinstance(end, MessageChanged)
    assert list(end.message.content) == content
