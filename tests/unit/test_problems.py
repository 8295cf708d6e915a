"""Every refusal of the core has a status, a stable code and words."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.api import problems
from app.domain.errors import (
    DomainError,
    NoActionRequiredError,
    SessionBusyError,
    ToolOutputsMismatchError,
)


def subclasses(error: type[DomainError]) -> Iterator[type[DomainError]]:
    for found in error.__subclasses__():
        yield found
        yield from subclasses(found)


def make(kind: type[DomainError]) -> DomainError:
    needs: dict[type[DomainError], tuple[Any, ...]] = {
        SessionBusyError: ("run_1",),
        NoActionRequiredError: ("completed",),
        ToolOutputsMismatchError: (["call_1"], []),
    }
    return kind(*needs.get(kind, ()))


ALL = sorted(set(subclasses(DomainError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL)
def test_every_domain_error_has_a_status(kind: type[DomainError]) -> None:
    assert 400 <= problems.status_of(make(kind)) <= 599


def test_the_table_names_nothing_else() -> None:
    assert set(problems.STATUS) == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_every_domain_error_has_a_code_and_words_of_its_own(kind: type[DomainError]) -> None:
    error = make(kind)
    assert re.fullmatch(r"[a-z_]{3,40}", error.code)
    assert error.code != DomainError.code
    assert error.detail.endswith(".") or "`" in error.detail
    assert "\n" not in error.detail


def test_codes_are_not_shared() -> None:
    assert len({kind.code for kind in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_who_is_asked_to_come_back_is_told_when(kind: type[DomainError]) -> None:
    error = make(kind)
    if problems.status_of(error) == 429 or (
        problems.status_of(error) == 503 and error.code != "schema_behind"
    ):
        assert error.retry_after is not None
        assert error.retry_after.total_seconds() >= 1


def test_readers_who_are_sent_away_do_not_all_come_back_at_once() -> None:
    bodies = [bytes(problems.come_back().body) for _ in range(50)]
    waits = {int(body.removeprefix(b"retry: ").removesuffix(b"\n\n")) for body in bodies}
    assert len(waits) > 5
    assert all(1000 <= wait <= 3000 for wait in waits)
