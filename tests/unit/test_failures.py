"""The map from faults to the tests that prove what then happens must not rot."""

import ast
import re
from functools import cache

import pytest

from tests.integration.test_upstream_faults import SCENARIOS
from tests.stack import ROOT

TABLE = ROOT / "docs" / "failures.md"
SCENARIO_OF = (
    "tests/integration/test_upstream_faults.py"
    "::test_a_fault_ends_in_an_answer_or_in_a_stated_reason"
)
# What the service promises to withstand; a fault may be told of in more words, or have more rows.
FAULTS = (
    "browser reloads, network drops",
    "API process dies",
    "API process is deployed",
    "worker killed",
    "worker deployed",
    "worker frozen, then wakes",
    "upstream 429, 5xx, timeout, cut, garbage",
    "upstream says the thread is busy",
    "upstream lost the thread",
    "Postgres restarts",
    "overload",
    "400",
    "401",
    "429 with `Retry-After`",
    "429 without",
    "500",
    "503",
    "connect timeout",
    "reset at each kind of event",
    "clean EOF without a terminal event",
    "garbage JSON",
    "bad UTF-8",
    "duplicate",
    "out-of-order",
    "missing sequence numbers",
    "a 50 MB event",
    "slow drip",
    "stall",
    "an unknown event type",
    "200 with HTML",
)


def rows() -> dict[str, list[str]]:
    """Return each fault's tests."""
    cells = re.findall(r"^\| (.+?) \| (.+) \|$", TABLE.read_text(), re.MULTILINE)
    return {fault: re.findall(r"`([^`]+)`", tests) for fault, tests in cells if fault != "fault"}


ROWS = rows()


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(each.name for each in functions if each.name.startswith("test_"))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_that_is_promised_to_be_withstood_is_in_the_map(fault: str) -> None:
    assert any(row.startswith(fault) for row in ROWS), fault


@pytest.mark.parametrize("fault", ROWS)
def test_every_test_in_the_map_exists(fault: str) -> None:
    assert ROWS[fault], "no test is named"
    for name in ROWS[fault]:
        if name.startswith("["):
            assert name[1:-1] in {scenario.name for scenario in SCENARIOS}, name
            continue
        path, _, test = name.partition("::")
        name_of_test, _, variant = test.rstrip("]").partition("[")
        assert name_of_test in names_in(path), name
        assert not variant or f'"{variant}"' in (ROOT / path).read_text(), name


def test_the_scenarios_are_those_of_the_test_that_is_named() -> None:
    assert f"`{SCENARIO_OF}`" in TABLE.read_text()
    path, _, test = SCENARIO_OF.partition("::")
    assert test in names_in(path)
