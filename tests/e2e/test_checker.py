"""The checker of clients' views passes a true history, and catches every false one.

The true one is recorded: students of a real stack, without any trouble. Each falsehood is told
about a copy of it.
"""

import asyncio
import copy
import json
import pickle
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import pytest

from tests.chaos.checker import violations
from tests.chaos.driver import Crowd
from tests.chaos.follower import Follower
from tests.chaos.recorder import History, Look, Operation, Outcome, Reading, Seen, Try
from tests.chaos.report import check_logs
from tests.chaos.student import Network, Student, Talk
from tests.chaos.truth import Entry, Truth, read_truth
from tests.conftest import NewDatabase
from tests.stack import running

LIFE_S = 60


@dataclass
class Tale:
    """A history and the truth about it."""

    history: History
    truth: Truth

    def kinds(self) -> set[str]:
        return {found.kind for found in violations(self.history, self.truth, life_s=LIFE_S)}

    def operation(self, kind: str, outcome: Outcome = Outcome.OK) -> Operation:
        """Return one that somebody did, in a session that is still there."""
        return next(
            op
            for op in self.history.operations
            if op.kind == kind
            and op.outcome is outcome
            and (kind in {"open", "delete"} or op.session in self.truth.sessions)
        )

    def reading(self, *, of_run: bool = False) -> Reading:
        """Return a long one, of a session that is still there."""
        return max(
            (
                reading
                for reading in self.history.readings
                if reading.session in self.truth.sessions and (reading.run is not None) == of_run
            ),
            key=lambda reading: len(reading.blocks),
        )

    def poll(self, status: str) -> Look:
        return next(
            look
            for look in self.history.looks
            if look.kind == "run" and look.status == 200 and look.body["status"] == status
        )

    def transcript(self) -> Look:
        return next(
            look
            for look in self.history.looks
            if look.kind == "transcript" and look.status == 200 and len(look.body["data"]) > 1
        )

    def gone(self) -> Reading:
        """Return a reading of a session that was deleted."""
        return next(
            reading
            for reading in self.history.readings
            if reading.session not in self.truth.sessions and len(reading.blocks) > 5
        )


async def tell(student: Student, crowd: Crowd) -> Talk:
    """Do one of everything."""
    talk = await crowd.converse(student)
    assert talk is not None
    for policy in ("reject", "reject", "enqueue", "enqueue"):
        run = await student.post(talk, policy=policy)
        crowd.watch(student, talk, run)
    await student.wait(talk, talk.runs[-1])
    await student.post(talk, wants_run=False)
    await student.wait(talk, str(await student.again(talk)))
    await student.look("transcript", talk, None)
    await crowd.ask_aloud(student, talk)
    await student.cancel(talk, talk.runs[-1])
    for run in talk.runs:
        await student.wait(talk, run)
        await Follower(student, talk, run, cuts=0).follow()
    return talk


@pytest.fixture(scope="module")
async def recorded(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Tale]:
    url, folder = await new_database(), tmp_path_factory.mktemp("tale")
    async with running(url, folder, apis=2, pace=300) as stack:
        history = History()
        crowd = Crowd(Network(stack.api_urls), history, random.Random(7))  # noqa: S311
        one, other = crowd.student("one"), crowd.student("other")
        try:
            await asyncio.gather(tell(one, crowd), tell(other, crowd))
            brief = await crowd.converse(one)
            assert brief is not None
            await crowd.ask_aloud(one, brief)
            await one.delete(brief)
            unheard = one.operation("post", one.talks[0])
            unheard.tries.append(Try(0.0, 1.0))
            await crowd.hush()
            await crowd.go_home()
        finally:
            await crowd.close()
        posts = (await stack.admin("GET", "posts"))["data"]
        connection = await asyncpg.connect(url)
        try:
            yield Tale(history, await read_truth(connection, posts))
        finally:
            await connection.close()


@pytest.fixture
def tale(recorded: Tale) -> Tale:
    """Give everybody a copy of their own."""
    found: Tale = pickle.loads(pickle.dumps(recorded))  # noqa: S301 - quicker than a deep copy
    return found


def test_a_true_history_passes(tale: Tale) -> None:
    assert list(violations(tale.history, tale.truth, life_s=LIFE_S)) == []
    outcomes = {(op.kind, op.outcome) for op in tale.history.operations}
    assert {("post", outcome) for outcome in Outcome} <= outcomes
    assert {"store", "again", "cancel", "delete"} <= {kind for kind, _ in outcomes}
    assert tale.gone().blocks
    assert tale.truth.posts


# ---------------------------------------------------------------- what readers were shown


def drop_block(tale: Tale) -> None:
    del tale.reading().blocks[3]


def drop_block_of_a_run(tale: Tale) -> None:
    del tale.reading(of_run=True).blocks[3]


def double_block(tale: Tale) -> None:
    blocks = tale.reading().blocks
    blocks.insert(4, replace(blocks[4]))


def reorder_blocks(tale: Tale) -> None:
    blocks = tale.reading().blocks
    blocks[4], blocks[5] = blocks[5], blocks[4]


def change_block(tale: Tale) -> None:
    block = tale.reading().blocks[4]
    block.data = block.data.replace('"seq"', ' "seq"')


def rename_event(tale: Tale) -> None:
    tale.reading().blocks[4].event = "run.step"


def invent_block(tale: Tale) -> None:
    """Nothing is visible before its commit: what a reader saw is in the log."""
    reading = tale.reading()
    seq = len(tale.truth.log[reading.session]) + 1
    last = reading.blocks[-1]
    reading.blocks.append(Seen(str(seq), last.event, last.data, last.at))


def add_after_end(tale: Tale) -> None:
    reading = tale.reading(of_run=True)
    assert reading.blocks[-1].event == "done"
    reading.blocks.append(replace(reading.blocks[3]))


def end_too_early(tale: Tale) -> None:
    reading = tale.reading(of_run=True)
    del reading.blocks[-2]


def go_on_after_the_end(tale: Tale) -> None:
    """A run's log goes on after its end, and its reader was sent all of it."""
    reading = tale.reading(of_run=True)
    log = tale.truth.log[reading.session]
    late = next(entry for entry in log if entry.run == reading.run)
    log.append(replace(late, seq=log[-1].seq + 1))


def lose_events_at_204(tale: Tale) -> None:
    reading = tale.reading(of_run=True)
    reading.blocks, reading.status, reading.end = [], 204, "closed"


def reset_cursor(tale: Tale) -> None:
    tale.reading().blocks[0].event = "reset"


def disagree_about_what_is_gone(tale: Tale) -> None:
    reading = tale.gone()
    other = copy.deepcopy(reading)
    other.blocks[2].data = other.blocks[3].data
    tale.history.readings.append(other)


def skip_in_what_is_gone(tale: Tale) -> None:
    reading = next(r for r in tale.history.readings if r == tale.gone())
    reading.run = None
    del reading.blocks[2]


# ---------------------------------------------------------------- polls and transcripts


def poll_otherwise_than_stored(tale: Tale) -> None:
    tale.poll("completed").body["usage"] = None


def poll_an_end_that_never_was(tale: Tale) -> None:
    tale.poll("completed").body["status"] = "failed"


def poll_something_older(tale: Tale) -> None:
    last = tale.poll("completed")
    entries = tale.truth.log[last.session]
    begun = next(e.body["run"] for e in entries if e.type == "run.in_progress")
    later = last.returned + 1
    tale.history.looks.append(
        Look("run", last.user, last.session, begun["id"], later, later + 1, 200, begun)
    )


def change_the_end(tale: Tale) -> None:
    """Two polls of one run tell of two ends."""
    run = tale.poll("completed").item
    stored = tale.truth.runs[str(run)]
    stored.body = {**stored.body, "ended_at": "2000-01-01T00:00:00Z"}


def show_another_answer(tale: Tale) -> None:
    look = next(look for look in tale.history.looks if look.kind == "message")
    look.body["content"][0]["text"] += "!"


def show_half_a_transcript(tale: Tale) -> None:
    tale.transcript().body["data"].pop()


def show_a_transcript_of_earlier(tale: Tale) -> None:
    tale.transcript().body["last_seq"] //= 2


# ---------------------------------------------------------------- what was accepted, or not


def message_of(op: Operation) -> str:
    return str(op.answers[0]["message"]["id"])


def lose_accepted_message(tale: Tale) -> None:
    del tale.truth.messages[message_of(tale.operation("post"))]


def lose_accepted_run(tale: Tale) -> None:
    del tale.truth.runs[tale.operation("post").answers[0]["run"]["id"]]


def lose_accepted_session(tale: Tale) -> None:
    session = next(iter(tale.truth.sessions))
    del tale.truth.sessions[session]


def lose_another_answer(tale: Tale) -> None:
    del tale.truth.runs[tale.operation("again").answers[0]["id"]]


def store(tale: Tale, op: Operation, suffix: str) -> None:
    """Store a message of an operation, with its run."""
    known = tale.operation("post")
    message = {**tale.truth.messages[message_of(known)], "id": f"msg_{suffix}"}
    message["content"] = [{"type": "text", "text": f"Says {op.word}.", "annotations": []}]
    message["session_id"] = op.session
    tale.truth.messages[message["id"]] = message
    run = tale.truth.runs[known.answers[0]["run"]["id"]]
    body = {**run.body, "id": f"run_{suffix}", "input_message_id": message["id"]}
    tale.truth.runs[f"run_{suffix}"] = replace(run, body=body)


def store_refused_message(tale: Tale) -> None:
    store(tale, tale.operation("post", Outcome.FAILED), "refused")


def double_accepted_message(tale: Tale) -> None:
    store(tale, tale.operation("post"), "doubled")


def double_unknown_message(tale: Tale) -> None:
    op = tale.operation("post", Outcome.UNKNOWN)
    store(tale, op, "one")
    store(tale, op, "two")


def double_run(tale: Tale) -> None:
    run = tale.truth.runs[tale.operation("post").answers[0]["run"]["id"]]
    tale.truth.runs["run_doubled"] = copy.deepcopy(run)


def answer_a_message_that_wants_none(tale: Tale) -> None:
    run = copy.deepcopy(next(iter(tale.truth.runs.values())))
    run.body["input_message_id"] = message_of(tale.operation("store"))
    run.body["metadata"] = {}
    tale.truth.runs["run_unwanted"] = run


def store_what_nobody_said(tale: Tale) -> None:
    message = copy.deepcopy(tale.truth.messages[message_of(tale.operation("post"))])
    message["content"][0]["text"] = "Says canary000000000000."
    tale.truth.messages["msg_phantom"] = message


def answer_one_key_in_two_ways(tale: Tale) -> None:
    op = tale.operation("post")
    op.tries.append(copy.deepcopy(op.tries[-1]))
    op.tries[-1].body["message"]["seq"] += 1


def refuse_what_was_done(tale: Tale) -> None:
    op = next(
        op
        for op in tale.history.operations
        if op.key and op.kind == "post" and op.session in tale.truth.sessions and op.answers
    )
    op.tries.append(Try(op.done + 1, op.done + 2, 409, {"code": "session_busy"}))


def fail_with_a_defect(tale: Tale) -> None:
    tale.operation("post").tries[0].status = 500


# ---------------------------------------------------------------- what became of it


def answer_of(tale: Tale) -> Any:
    run = tale.poll("completed").body
    return tale.truth.messages[run["output_message_id"]]


def answer_twice(tale: Tale) -> None:
    tale.truth.messages["msg_second"] = {**answer_of(tale), "id": "msg_second"}


def answer_another_question(tale: Tale) -> None:
    answer_of(tale)["content"] = [{"type": "text", "text": "x = 1", "annotations": []}]


def never_end(tale: Tale) -> None:
    next(iter(tale.truth.runs.values())).body["status"] = "in_progress"


def live_too_long(tale: Tale) -> None:
    next(iter(tale.truth.runs.values())).life_s = LIFE_S + 1


def ask_upstream_too_often(tale: Tale) -> None:
    word = tale.operation("post").word
    post = next(post for post in tale.truth.posts if word in post["text"])
    tale.truth.posts += [post, {**post, "status": None}]


# ---------------------------------------------------------------- whose it is, and whether it is


def show_foreign_id(tale: Tale) -> None:
    look = tale.transcript()
    theirs = next(id_ for id_, owner in tale.truth.owners.items() if owner != look.user)
    look.body["data"][0]["metadata"]["seen"] = theirs


def show_foreign_word(tale: Tale) -> None:
    reading = tale.gone()
    theirs = next(op.word for op in tale.history.operations if op.user != reading.user)
    reading.blocks[2].data = json.dumps({"text": theirs, "session_id": reading.session})


def stream_another_session(tale: Tale) -> None:
    reading = tale.reading()
    other = next(
        each for each in tale.history.readings if each.session != reading.session and each.blocks
    )
    reading.blocks[2] = replace(other.blocks[0])


def show_what_is_deleted(tale: Tale) -> None:
    op = tale.operation("delete")
    look = next(
        each
        for each in tale.history.looks
        if each.session == op.session and each.invoked > op.done
    )
    assert look.status == 404
    look.status = 200


def stream_what_is_deleted(tale: Tale) -> None:
    op, reading = tale.operation("delete"), copy.deepcopy(tale.gone())
    reading.opened = op.done + 1
    tale.history.readings.append(reading)


def stream_on_after_deletion(tale: Tale) -> None:
    op, reading = tale.operation("delete"), tale.gone()
    reading.blocks[-1].at = op.done + 60


def keep_what_is_deleted(tale: Tale) -> None:
    op = tale.operation("delete")
    kept = next(iter(tale.truth.sessions.values()))
    tale.truth.sessions[str(op.session)] = {**kept, "id": op.session}
    tale.truth.owners[str(op.session)] = op.user
    tale.truth.log[str(op.session)] = [Entry(1, "", None, "{}")]


def hide_what_is_there(tale: Tale) -> None:
    look = tale.transcript()
    look.status, look.body = 404, {"code": "not_found"}


def keep_a_reader_waiting(tale: Tale) -> None:
    tale.history.stuck.append("a reader stands at 3 of 40")


FALSEHOODS: list[tuple[Callable[[Tale], None], str]] = [
    (drop_block, "stream"),
    (drop_block_of_a_run, "stream"),
    (double_block, "stream"),
    (reorder_blocks, "stream"),
    (change_block, "stream"),
    (rename_event, "stream"),
    (invent_block, "stream"),
    (add_after_end, "stream"),
    (end_too_early, "stream"),
    (go_on_after_the_end, "stream"),
    (lose_events_at_204, "stream"),
    (reset_cursor, "reset"),
    (disagree_about_what_is_gone, "stream"),
    (skip_in_what_is_gone, "stream"),
    (poll_otherwise_than_stored, "poll"),
    (poll_an_end_that_never_was, "poll"),
    (poll_something_older, "poll"),
    (change_the_end, "poll"),
    (show_another_answer, "poll"),
    (show_half_a_transcript, "transcript"),
    (show_a_transcript_of_earlier, "transcript"),
    (lose_accepted_message, "stored"),
    (lose_accepted_run, "stored"),
    (lose_accepted_session, "lost"),
    (lose_another_answer, "stored"),
    (store_refused_message, "stored"),
    (double_accepted_message, "stored"),
    (double_unknown_message, "stored"),
    (double_run, "stored"),
    (answer_a_message_that_wants_none, "stored"),
    (store_what_nobody_said, "phantom"),
    (answer_one_key_in_two_ways, "repeat"),
    (refuse_what_was_done, "repeat"),
    (fail_with_a_defect, "defect"),
    (answer_twice, "answers"),
    (answer_another_question, "answers"),
    (never_end, "end"),
    (live_too_long, "end"),
    (ask_upstream_too_often, "posts"),
    (show_foreign_id, "foreign"),
    (show_foreign_word, "foreign"),
    (stream_another_session, "foreign"),
    (show_what_is_deleted, "deleted"),
    (stream_what_is_deleted, "deleted"),
    (stream_on_after_deletion, "deleted"),
    (keep_what_is_deleted, "deleted"),
    (hide_what_is_there, "lost"),
    (keep_a_reader_waiting, "stuck"),
]


@pytest.mark.parametrize(
    ("tell_it", "kind"), FALSEHOODS, ids=lambda it: getattr(it, "__name__", it)
)
def test_a_falsehood_is_found_out(tale: Tale, tell_it: Callable[[Tale], None], kind: str) -> None:
    tell_it(tale)
    assert kind in tale.kinds()


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [
        ('{"message": "x", "traceback": "Traceback (most recent call last):"}', True),
        ("Traceback (most recent call last):", True),
        ('{"message": "401 for sk-canary-in-no-log"}', True),
        ('{"message": "says canary0123456789ab"}', True),
        ('{"message": "Authorization: Bearer eyJhbGciOi"}', True),
        ('{"message": "the database is away; 3 runs wait"}', False),
    ],
)
def test_what_must_be_in_no_log_is_found_there(line: str, *, is_wrong: bool) -> None:
    assert bool(check_logs({"worker-0.log": f"all is well\n{line}\n"})) is is_wrong
