"""Run the tutorial's cells as a notebook does, told nothing but OPENAI_BASE_URL and _API_KEY.

Then one more run over the tutorial's thread is streamed, by the SDK's own helper.

A program of its own: it runs where only the SDK of the day is, not this repository.
"""

import importlib
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


def notebook() -> tuple[Callable[[str], Any], dict[str, Any]]:
    """Return what runs a cell, and its names: IPython's, or as much of it as the cells use."""
    try:
        interactive = importlib.import_module("IPython.core.interactiveshell")
    except ImportError:
        dotenv = types.ModuleType("dotenv")
        vars(dotenv)["load_dotenv"] = lambda: True
        sys.modules.setdefault("dotenv", dotenv)
        names: dict[str, Any] = {"display": print}
        return lambda cell: exec(cell, names), names  # noqa: S102 - the tutorial's own cells
    shell = interactive.InteractiveShell.instance()
    return lambda cell: shell.run_cell(cell).raise_error(), shell.user_ns


def streamed(names: dict[str, Any]) -> dict[str, Any]:
    """Follow another answer to the last question."""
    runs = names["client"].beta.threads.runs
    with runs.stream(thread_id=names["thread"].id, assistant_id=names["assistant"].id) as stream:
        text = "".join(stream.text_deltas)
        (message,) = stream.get_final_messages()
        return {
            "deltas": text,
            "message": message.content[0].text.value,
            "status": stream.get_final_run().status,
        }


def main() -> None:
    """Run all cells; write the two answers, and which SDK gave them."""
    run_cell, names = notebook()
    answers = []
    cells = re.split(r"(?m)^# %% In \[\d+\]\n", Path(sys.argv[1]).read_text(encoding="utf-8"))
    for cell in cells[1:]:
        run_cell(cell)
        if cell.startswith("print(messages"):
            answers.append(names["messages"].data[0].content[0].text.value)
    version = importlib.import_module("openai").__version__
    found = {"answers": answers, "version": version, **streamed(names)}
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


main()
