"""What Postgres can keep, how instants are written, and what may be an id."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import ids
from app.domain.text import MAX_NESTING, clean, clean_json, is_storable, rfc3339

ANY_TEXT = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("\x00\ud83d\ude00\udfff")
)


@given(ANY_TEXT)
def test_cleaned_text_can_always_be_stored(text: str) -> None:
    assert is_storable(clean(text))


@given(ANY_TEXT.filter(is_storable))
def test_storable_text_is_not_changed_by_cleaning(text: str) -> None:
    assert clean(text) == text


@given(ANY_TEXT)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83dx\ude00", "\ufffdx\ufffd"),
        ("\x00\ud83d\ude00\x00", "\ufffd\N{GRINNING FACE}\ufffd"),
    ],
)
def test_only_what_postgres_refuses_is_replaced(dirty: str, expected: str) -> None:
    assert clean(dirty) == expected


@pytest.mark.parametrize("text", ["\x00", "\ud800", "ok\x00", "ok\udc00"])
def test_nul_and_lone_surrogates_are_not_storable(text: str) -> None:
    assert not is_storable(text)


@pytest.mark.parametrize(
    "text", ["", "\x01\x1f\x7f", "\u2028\u0085", "\N{GRINNING FACE}", "\ufffe"]
)
def test_every_other_character_is_storable(text: str) -> None:
    assert is_storable(text)


def nested(depth: int) -> dict[str, object]:
    return {"in\x00": [nested(depth - 2)]} if depth > 2 else {}


def test_json_that_is_nested_too_deep_is_refused_before_it_is_kept() -> None:
    assert "\x00" not in str(clean_json(nested(MAX_NESTING)))
    with pytest.raises(ValueError, match=r"^$"):
        clean_json(nested(MAX_NESTING + 2))


def test_instants_are_written_in_utc_with_microseconds() -> None:
    seoul = timezone(timedelta(hours=9))
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 6, seoul)) == "2026-01-01T18:04:05.000006Z"
    assert rfc3339(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000000Z"


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_written_instant_reads_back_as_itself(instant: datetime) -> None:
    assert datetime.fromisoformat(rfc3339(instant)) == instant


@given(st.lists(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))))  # noqa: DTZ001
def test_written_instants_sort_as_the_instants_do(instants: list[datetime]) -> None:
    assert sorted(map(rfc3339, instants)) == [rfc3339(instant) for instant in sorted(instants)]


@pytest.mark.parametrize(
    "prefix", [ids.USER, ids.ASSISTANT, ids.SESSION, ids.MESSAGE, ids.RUN, ids.WORKER]
)
def test_fresh_ids_are_ids_with_their_prefix_and_never_repeat(prefix: str) -> None:
    made = {ids.new_id(prefix) for _ in range(1000)}
    assert len(made) == 1000
    assert all(ids.is_id(one) and one.startswith(f"{prefix}_") for one in made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sess_",
        "_1",
        "sess-1",
        "sess_1\n",
        "sess_1\r\nX-Injected: 1",
        "sess_1\x00",
        "sess_a b",
        "sess_../../etc/passwd",
        "sess_1'--",
        "sess_\ud800",
        "sess_\N{ARABIC-INDIC DIGIT ONE}",
        "SESS_1",
        "sess_" + "1" * 65,
    ],
)
def test_what_cannot_be_an_id_is_told_apart(text: str) -> None:
    assert not ids.is_id(text)


@given(st.text())
def test_an_id_is_always_plain_ascii_of_one_word(text: str) -> None:
    if ids.is_id(text):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
