"""The steps of a run: the same one whenever it is heard, and gone when its round is repeated."""

from app.domain.events import StepChanged
from app.domain.models import Part, RunStatus, ToolCall
from app.domain.steps import FUNCTION, RunStep, StepStatus, call_details, public_details
from app.ports import Step
from app.services.publisher import RunLog
from app.services.steps import Steps
from tests.unit.test_answer import RUN, a_log

GOING, DONE = StepStatus.IN_PROGRESS, StepStatus.COMPLETED
CODE = Step("ci_1", "code_interpreter", GOING, {"input": "1 + 1"})
RAN = Step("ci_1", "code_interpreter", DONE, {"input": "1 + 1", "outputs": []})


def asked(call_id: str, arguments: str = "{}") -> Step:
    return Step(call_id, FUNCTION, GOING, call_details([ToolCall(call_id, "plot", arguments)]))


def told(log: RunLog) -> list[RunStep]:
    return [draft.step for draft in log.take().drafts if isinstance(draft, StepChanged)]


def test_what_is_heard_again_changes_nothing() -> None:
    log = a_log()
    steps = Steps(log, RUN, [])
    for heard in (CODE, CODE, RAN, CODE, RAN):
        steps.hear(heard, "resp_1")
    first, last = told(log)
    assert (first.status, last.status) == (GOING, DONE)
    assert first.id == last.id
    taken_over = Steps(log, RUN, [last])
    for heard in (CODE, RAN):
        taken_over.hear(heard, "resp_1")
    assert told(log) == []


def test_the_calls_of_one_generation_are_one_step() -> None:
    log = a_log()
    steps = Steps(log, RUN, [])
    for heard in (asked("call_1", ""), asked("call_1"), asked("call_2", ""), asked("call_2")):
        steps.hear(heard, "resp_1")
    heard_again = asked("call_1", "")
    steps.hear(heard_again, "resp_1")
    found = told(log)
    assert len({step.id for step in found}) == 1
    assert [len(step.calls) for step in found] == [1, 1, 2, 2]
    assert [call.arguments for call in found[-1].calls] == ["{}", "{}"]


def test_a_round_that_is_repeated_withdraws_its_own_steps_and_no_earlier_ones() -> None:
    log = a_log()
    steps = Steps(log, RUN, [])
    steps.hear(asked("call_1"), "resp_1")
    steps.asked([ToolCall("call_1", "plot", "{}", "drawn")], [Part("Look.")], "resp_1")
    assert [step.said for step in steps.rounds] == [(Part("Look."),)]
    steps.hear(CODE, "resp_2")
    steps.hear(RAN, "resp_2")
    steps.hear(asked("call_2"), "resp_2")
    log.take()
    steps.withdraw()
    found = told(log)
    assert [(step.kind, step.status) for step in found] == [
        ("code_interpreter", StepStatus.WITHDRAWN),
        (FUNCTION, StepStatus.WITHDRAWN),
    ]
    assert [step.calls[0].id for step in steps.rounds] == ["call_1"]
    steps.hear(asked("call_3"), "resp_3")
    (again,) = told(log)
    assert again.id != found[-1].id


def test_what_goes_on_ends_with_its_run() -> None:
    log = a_log()
    steps = Steps(log, RUN, [])
    steps.hear(RAN, "resp_1")
    steps.hear(asked("call_1"), "resp_1")
    (ended,) = steps.end(RunStatus.EXPIRED)
    assert isinstance(ended, StepChanged)
    assert (ended.step.kind, ended.step.status) == (FUNCTION, StepStatus.EXPIRED)


def test_the_words_of_a_tutors_files_are_not_shown() -> None:
    result = {"file_id": "file_1", "file_name": "a.txt", "score": 0.5, "text": "Solutions."}
    shown = public_details("file_search", {"queries": ["q"], "results": [result]})
    assert shown["queries"] == ["q"]
    assert shown["results"] == [{"file_id": "file_1", "file_name": "a.txt", "score": 0.5}]
