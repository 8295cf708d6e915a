"""The tutor solves what stands in a sentence, explains it when asked, and admits the rest."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from app.sandbox.tutor.offline import Tutor
from app.sandbox.tutor.prose import find_pieces
from app.sandbox.tutor.question import understand

ASKED = "다음의 방정식을 풀고 싶습니다. `3x**2 + 11x - 10 = 0`. 수학선생님 도와주실 수 있나요?"
MORE = "설명이 잘 이해가 가지 않습니다. 좀 더 자세히 설명해 주실 수 있나요?"
NASTY = "sin(x)*sin(2x)*sin(3x)*sin(5x)*sin(7x)*e^x"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tutor() -> AsyncIterator[Tutor]:
    one = Tutor()
    await asyncio.to_thread(one.warm_up)
    yield one
    await one.aclose()


def is_korean(text: str) -> bool:
    return any("가" <= letter <= "힣" for letter in text)


async def test_the_tutorial_gets_both_roots(tutor: Tutor) -> None:
    answer = await tutor.reply([("user", ASKED)])
    assert "\\frac{-11 + \\sqrt{241}}{6}" in answer
    assert "\\frac{-11 - \\sqrt{241}}{6}" in answer
    assert "x = (-11 + √241)/6" in answer
    assert "x = (-11 - √241)/6" in answer
    assert is_korean(answer)


async def test_the_tutorial_gets_an_explanation_of_the_same_equation(tutor: Tutor) -> None:
    first = await tutor.reply([("user", ASKED)])
    answer = await tutor.reply([("user", ASKED), ("assistant", first), ("user", MORE)])
    assert "b² - 4ac = 121 + 120 = 241" in answer
    assert "a = 3, \\; b = 11, \\; c = -10" in answer
    assert "x = (-11 + √241)/6" in answer
    assert "1. " in answer
    assert is_korean(answer)
    assert answer != first


@pytest.mark.parametrize(
    "request_",
    ["I don't understand.", "Please explain in more detail.", "step by step please", "Why? How?"],
)
async def test_an_explanation_is_in_the_language_of_its_request(
    tutor: Tutor, request_: str
) -> None:
    answer = await tutor.reply([("user", ASKED), ("assistant", "…"), ("user", request_)])
    assert "121 + 120 = 241" in answer
    assert not is_korean(answer)


async def test_the_newest_mathematics_is_explained(tutor: Tutor) -> None:
    turns = [("user", ASKED), ("assistant", "…"), ("user", "x^2 - 5x + 6 = 0 은?")]
    answer = await tutor.reply([*turns, ("assistant", "…"), ("user", MORE)])
    assert "25 - 24 = 1" in answer
    assert "241" not in answer


async def test_explanations_may_be_asked_for_again(tutor: Tutor) -> None:
    once = [("user", ASKED), ("assistant", "…"), ("user", MORE)]
    again = [*once, ("assistant", await tutor.reply(once)), ("user", MORE)]
    assert await tutor.reply(again) == await tutor.reply(once)


async def test_what_only_the_assistant_wrote_can_be_explained(tutor: Tutor) -> None:
    answer = await tutor.reply([("user", "hi"), ("assistant", "`x^2 = 9`"), ("user", "explain")])
    assert "x = -3" in answer


async def test_new_mathematics_with_the_word_explain_is_solved_in_steps(tutor: Tutor) -> None:
    answer = await tutor.reply([("user", ASKED), ("user", "Explain how to solve 2x + 3 = 7")])
    assert "x = 2" in answer
    assert "1. **" in answer
    assert "241" not in answer


async def test_it_means_what_was_talked_about(tutor: Tutor) -> None:
    answer = await tutor.reply([("user", "x^3 - x"), ("user", "Now differentiate it.")])
    assert "= 3x^2 - 1" in answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Please solve 3x**2 + 11x - 10 = 0 for me.", "x = (-11 - √241)/6"),
        ("Solve for x: 2x + 3 = 7.", "x = 2"),
        ("Solve for x 2x + 3 = 7", "x = 2"),
        ("Solve for y 2x + 3y = 7", "y = 7/3 - 2x/3"),
        ("I want to solve x^2 + 1 = 0", "complex"),
        ("solve x^2 - 4", "x = -2"),
        ("Solve the system x + y = 10 and 2x - y = 2", "x = 4, y = 6"),
        ("What is 12 * 7?", "12 × 7 = 84"),  # noqa: RUF001
        ("12*7=?", "84"),
        ("What is 1,234 * 2?", "2468"),
        ("What is 0.1 + 0.2", "3/10"),
        ("derivative of f(x) = x^3 - 2x?", "= 3x^2 - 2"),
        ("second derivative of x^4", "= 12x^2"),
        ("d/dx (x^2 + 1)", "= 2x"),
        ("Integrate x^2 from 0 to 3", "= 9"),
        ("$\\int_{0}^{1} (x^2+1) dx$ ?", "= 4/3"),
        ("∫ x^2 dx", "= x^3/3 + C"),
        ("Is 1/2 + 1/3 = 5/6 correct?", "Yes"),
        ("Is x = 3 a solution of 3x - 6 = 0?", "No"),
        ("2(x+1) = 2x + 2", "identity"),
        ("- 2x = 4\n- 3x = 9", "x = 3"),
        ("1. 2x = 4", "x = 2"),
    ],
)
async def test_english_sentences(tutor: Tutor, text: str, expected: str) -> None:
    answer = await tutor.reply([("user", text)])
    assert expected in answer
    assert not is_korean(answer)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3x+5=11을 풀어줘", "x = 2"),
        ("연립방정식 x + y = 10, x - y = 2 를 풀어줘", "x = 6, y = 4"),
        ("x^2*sin(x)를 미분해줘", "= x^2cos(x) + 2xsin(x)"),
        ("x^2 을 0부터 3까지 적분해 주세요", "= 9"),
        ("1/x를 -1부터 1까지 적분", "정의되지 않습니다"),
        ("100 / (2 + 3) 계산해 주세요.", "= 20"),
        ("x² − 4x + 4 = 0 풀어주세요", "2중근"),  # noqa: RUF001
        ("3x=6의 해는 무엇인가요?", "x = 2"),
        ("x = 2가 3x - 6 = 0의 해인가요?", "맞습니다"),
        ("9**9**9 계산해줘", "너무 큽니다"),
    ],
)
async def test_korean_sentences(tutor: Tutor, text: str, expected: str) -> None:
    answer = await tutor.reply([("user", text)])
    assert expected in answer
    assert is_korean(answer)


async def test_bare_mathematics_is_answered_in_the_language_spoken_before(tutor: Tutor) -> None:
    assert is_korean(await tutor.reply([("user", "안녕하세요"), ("user", "2x = 4")]))
    assert not is_korean(await tutor.reply([("user", "Hello"), ("user", "2x = 4")]))
    assert not is_korean(await tutor.reply([("user", "2x = 4")]))


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "Explain.",
        "What is the capital of France?",
        "I have 3 questions about step-by-step work",
        "Meet me on 2024-07-31",
        "Factor x^2 - 5x + 6",
        "",
    ],
)
async def test_it_admits_to_be_an_offline_tutor(tutor: Tutor, text: str) -> None:
    assert "I'm an offline tutor" in await tutor.reply([("user", text)])


async def test_it_admits_so_in_korean(tutor: Tutor) -> None:
    assert "오프라인" in await tutor.reply([("user", "한국의 수도는 어디인가요?")])


async def test_a_calculation_without_end_is_given_up_and_the_next_one_works() -> None:
    one = Tutor(solve_deadline_s=0.5)
    await asyncio.to_thread(one.warm_up)
    try:
        assert "in time" in await one.reply([("user", f"Integrate {NASTY}")])
        assert "84" in await one.reply([("user", "12*7")])
    finally:
        await one.aclose()


async def test_the_loop_stays_free_while_the_tutor_thinks() -> None:
    one = Tutor(solve_deadline_s=1.0)
    await asyncio.to_thread(one.warm_up)
    thinking = asyncio.create_task(one.reply([("user", f"Integrate {NASTY}")]))
    try:
        ticks = 0
        while not thinking.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 20
    finally:
        await thinking
        await one.aclose()


async def test_a_tutor_that_closes_leaves_no_question_waiting() -> None:
    one = Tutor(solve_deadline_s=60)
    await asyncio.to_thread(one.warm_up)
    thinking = asyncio.create_task(one.reply([("user", f"Integrate {NASTY}")]))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        await one.aclose()
        assert "in time" in await thinking


async def test_students_who_ask_together_get_their_own_answers(tutor: Tutor) -> None:
    answers = await asyncio.gather(*(tutor.reply([("user", f"{n} * 2 = ?")]) for n in range(30)))
    assert [f"= {2 * n}" in answer for n, answer in enumerate(answers)] == [True] * 30


async def test_an_equal_conversation_has_equal_bytes() -> None:
    async def fresh() -> str:
        one = Tutor()
        try:
            return await one.reply([("user", ASKED), ("user", MORE)])
        finally:
            await one.aclose()

    assert await fresh() == await fresh()


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000,
        "1+" * 50_000,
        "x " * 50_000,
        "\\(" * 20_000,
        "from " * 20_000,
        "`" * 50_000,
        "1부터" * 20_000 + " 적분",
        "적분 " + "9" * 50_000,
        "1 + " * 3_000 + "1",
    ],
)
def test_prose_that_wants_to_take_for_ever_is_read_soon(text: str) -> None:
    began = time.monotonic()
    understand([("user", text)] * 3)
    assert time.monotonic() - began < 10


@settings(deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_conversation_is_understood_in_one_way(first: str, second: str) -> None:
    turns = [("user", first), ("assistant", second), ("user", second)]
    assert understand(turns) == understand(turns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Solve `2x = 4` and then x + 1", ["2x = 4"]),
        ("The roots of x^2 - 2 = 0 are a mystery.", ["x^2 - 2 = 0"]),
        ("I think a formula is 3 x + 2 = 8.", ["3 x + 2 = 8"]),
        ("sin x + cos x = 1이다", ["sin x + cos x = 1"]),
        ("값은 3.5 + 2.", ["3.5 + 2"]),
        ("there is a 3 here and I am x", []),
    ],
)
def test_mathematics_is_told_from_prose(text: str, expected: list[str]) -> None:
    assert [piece.text for piece in find_pieces(text)] == expected
