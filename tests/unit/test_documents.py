"""The documents keep their promises: settings agree, links resolve, sizes are bounded."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "bench", "app", "tests", ".ci")
SETTING = re.compile(r"^#([A-Z][A-Z0-9_]*)=(.*)$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MAX_MODULE_LINES = 400
MAX_MEDIAN_LINES = 120


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def documented() -> dict[str, str]:
    """What .env.example shows, by name."""
    found: dict[str, str] = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        if not line or line.startswith("# "):
            continue
        match = SETTING.match(line)
        assert match is not None, f"neither a comment nor a setting: {line}"
        assert match[1] not in found, f"{match[1]} stands there twice"
        found[match[1]] = match[2]
    return found


def documents() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.md")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_env_example_names_every_setting_and_nothing_else() -> None:
    assert set(documented()) == {name.upper() for name in Settings.model_fields}


@pytest.mark.usefixtures("_bare_environment")
def test_env_example_shows_the_defaults(tmp_path: Path) -> None:
    shown = documented()
    env_file = tmp_path / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in shown.items()))
    loaded = Settings(_env_file=env_file)  # type: ignore[call-arg]
    for name, field in Settings.model_fields.items():
        assert getattr(loaded, name) == field.default, name
        # An empty value counts as unset: it may only be shown where the default is nothing.
        assert bool(shown[name.upper()]) == (field.default not in {None, ""}), name


def test_every_setting_is_explained() -> None:
    """A comment stands above each setting, or above the group that it belongs to."""
    before = ""
    for line in (ROOT / ".env.example").read_text().splitlines():
        if SETTING.match(line):
            assert before.startswith("#"), f"not explained: {line}"
        before = line


@pytest.mark.parametrize(
    ("document", "most"),
    [
        ("README.md", 120),
        ("ARCHITECTURE.md", 150),
        ("CONTRIBUTING.md", 80),
        *((name_of(path), 60) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))),
    ],
)
def test_document_stays_short(document: str, most: int) -> None:
    assert lines_of(ROOT / document) <= most


def test_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make run" in text
    assert "make test" in text


def test_every_decision_is_indexed_and_has_its_parts() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    records = sorted(folder.glob("[0-9]*.md"))
    for number, path in enumerate(records, start=1):
        assert path.name.startswith(f"{number:04}-"), "numbers have no gap and no duplicate"
        assert f"({path.name})" in index
        text = path.read_text()
        assert text.startswith(f"# {number:04}: ")
        assert re.search(r"^Status: .+ Date: \d{4}-\d\d-\d\d\.$", text, re.MULTILINE)
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Rejected", "Consequences"]


@pytest.mark.parametrize("path", sorted(documents()), ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), target


def test_modules_stay_small() -> None:
    sizes = {name_of(path): lines_of(path) for path in (ROOT / "app").rglob("*.py")}
    too_large = {name: size for name, size in sizes.items() if size > MAX_MODULE_LINES}
    assert not too_large
    assert median(sizes.values()) <= MAX_MEDIAN_LINES
