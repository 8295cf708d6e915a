"""The command `import-threads`: exported Assistants threads become sessions."""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from app.container import import_service
from app.domain.errors import DomainError, NotFoundError
from app.domain.history import Loss, PastThread
from app.domain.models import Principal
from app.domain.text import is_name
from app.services.imports import Fate, ImportService, Taken, Tutors
from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from app.adapters.exports.file import Export

log = logging.getLogger(__name__)

YIELD_EVERY: Final = 200
"""Lines read between two looks at whether a signal came."""
BAR_CHARS: Final = 30
BAR_EVERY_S: Final = 0.1

HELP: Final = "take exported Assistants threads, into DATABASE_URL"
DESCRIPTION: Final = """
Reads threads, messages and runs as the Assistants API returned them, one JSON object a line, in
any order: single objects, pages of lists, or {"thread": {}, "messages": [], "runs": []}. Each
thread becomes a session of its owner, in one transaction, and once: start it again whenever it
was interrupted. It may run beside API and workers. See docs/importing.md.
"""
EPILOG: Final = """
Standard output has the counts, as JSON. Exit status: 0, all was taken or is here already; 1,
something was not (--report says what); 2, nothing could be done.
"""


@dataclass(slots=True)
class Options:
    """What the command was told."""

    file: str
    user: str | None
    user_from: str | None
    tenant: str | None
    tutors: Tutors
    dry_run: bool
    report: Path | None
    sessions: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("file", metavar="FILE", help="JSON lines; - is standard input")
    owner = parser.add_mutually_exclusive_group(required=True)
    owner.add_argument("--user", metavar="SUBJECT", help="whose all of them are (a token's `sub`)")
    owner.add_argument(
        "--user-from",
        metavar="PATH",
        help="where each thread names its owner, such as metadata.user_id",
    )
    parser.add_argument("--tenant", help="of all owners (a token's `tenant`)")
    parser.add_argument(
        "--assistant", metavar="ID", help="for all that is not mapped; else the default assistant"
    )
    parser.add_argument(
        "--assistant-map",
        metavar="OLD=NEW",
        action="append",
        default=[],
        type=_pair,
        help="which assistant here was which one there; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="do all of it but the commits")
    parser.add_argument(
        "--report", metavar="FILE", type=Path, help="JSON lines of what was not taken, and why"
    )
    parser.add_argument(
        "--sessions", metavar="FILE", type=Path, help="JSON lines of which thread is which session"
    )


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not (old and new):
        raise argparse.ArgumentTypeError("must be OLD=NEW")
    return old, new


def options_of(arguments: argparse.Namespace) -> Options:
    """Return what the command was told.

    Raises:
        SettingsError: A name could be in no token.
    """
    for name in ("user", "tenant"):
        value: str | None = getattr(arguments, name)
        if value is not None and not is_name(value):
            raise SettingsError(f"--{name} could be in no token")
    return Options(
        file=arguments.file,
        user=arguments.user,
        user_from=arguments.user_from,
        tenant=arguments.tenant,
        tutors=Tutors(arguments.assistant, dict(arguments.assistant_map)),
        dry_run=arguments.dry_run,
        report=arguments.report,
        sessions=arguments.sessions,
    )


class Bar:
    """Progress on a terminal; elsewhere nothing is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream if stream.isatty() else None
        self._drawn_at = float("-inf")

    def show(self, label: str, done: int, total: int) -> None:
        """Draw it, if it is time for that."""
        now = time.monotonic()
        if self._stream is None or (now < self._drawn_at + BAR_EVERY_S and done < total):
            return
        self._drawn_at = now
        share = min(1.0, done / total) if total else 1.0
        filled = round(BAR_CHARS * share)
        bar = "#" * filled + "." * (BAR_CHARS - filled)
        self._stream.write(f"\r{label} [{bar}] {share:4.0%}")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._stream is not None and self._drawn_at > 0:
            self._stream.write("\n")


@dataclass(slots=True)
class Account:
    """What was done, and what could not be."""

    dry_run: bool
    report: TextIO | None = None
    sessions: TextIO | None = None
    threads: "Counter[str]" = field(default_factory=Counter[str])
    messages: int = 0
    runs: int = 0
    losses: "Counter[str]" = field(default_factory=Counter[str])

    def lose(self, loss: Loss) -> None:
        """Note something that was not taken."""
        self.losses[loss.reason] += 1
        if self.report is not None:
            found = {
                "line": loss.line,
                "thread": loss.thread,
                "id": loss.item,
                "reason": loss.reason,
            }
            _write(self.report, {name: value for name, value in found.items() if value})

    def note(self, thread: PastThread, owner: Principal, taken: Taken) -> None:
        """Note what became of a thread."""
        self.threads[taken.fate] += 1
        if taken.fate is Fate.TAKEN:
            self.messages += len(thread.messages)
            self.runs += len(thread.runs)
        elif taken.fate in {Fate.CHANGED, Fate.FOREIGN}:
            self.lose(Loss(taken.fate, thread=thread.id))
        # What a dry run made is not there.
        is_new = taken.fate is Fate.TAKEN and not self.dry_run
        is_here = is_new or taken.fate in {Fate.UNCHANGED, Fate.CHANGED}
        if self.sessions is not None and is_here:
            named = {"thread": thread.id, "session": taken.session_id, "user": owner.subject}
            _write(self.sessions, named)

    def refuse(self, thread: PastThread, reason: str) -> None:
        """Note a thread that was not taken at all."""
        self.threads["refused"] += 1
        self.lose(Loss(reason, thread=thread.id))

    def summary(self) -> dict[str, Any]:
        """Return the counts."""
        names = [*Fate, "refused"]
        return {
            "dry_run": self.dry_run,
            "threads": {name: self.threads[name] for name in names},
            "messages": self.messages,
            "runs": self.runs,
            "not_taken": dict(sorted(self.losses.items())),
        }


def _new(path: Path | None) -> AbstractContextManager[TextIO | None]:
    return nullcontext() if path is None else path.open("w", encoding="utf-8")


def _write(file: TextIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")


class Importer:
    """One execution of the command."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._bar = Bar(sys.stderr)
        self._is_stopped = False

    def stop(self) -> None:
        """Stop after the thread that is being written; another start goes on from there."""
        self._is_stopped = True

    async def run(
        self, settings: Settings, on_signals: Callable[[Callable[[], None]], None]
    ) -> int:
        """Import; return the exit status.

        Raises:
            SettingsError: A file can't be opened, or the database is not named.
            StorageUnavailableError, SchemaBehindError: As `ImportService`.
        """
        # Needs SQLite, which some Pythons are built without: the other commands start there too.
        from app.adapters.exports.file import opened  # noqa: PLC0415

        options = self._options
        async with import_service(settings) as service:
            await service.ready()
            with ExitStack() as stack:
                try:
                    account = Account(
                        options.dry_run,
                        stack.enter_context(_new(options.report)),
                        stack.enter_context(_new(options.sessions)),
                    )
                    path = options.user_from.split(".") if options.user_from else ()
                    export = stack.enter_context(
                        opened(options.file, account.lose, owner_path=path)
                    )
                except OSError as error:
                    raise SettingsError(f"a file can't be opened: {error.strerror}") from None
                # Not before: what a pipe has to say is waited for by no event loop.
                on_signals(self.stop)
                stack.callback(self._bar.close)
                await self._scan(export)
                await self._take_all(export, service, account)
        _write(sys.stdout, account.summary())
        if self._is_stopped:
            sys.stderr.write("tutor-relay: stopped; start it again to go on\n")
        return 1 if self._is_stopped or account.losses else 0

    async def _scan(self, export: "Export") -> None:
        for count, done in enumerate(export.scan()):
            self._bar.show("reading", done, export.size)
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if self._is_stopped:
                return

    async def _take_all(self, export: "Export", service: ImportService, account: Account) -> None:
        total = export.count()
        for done, thread in enumerate(export.threads(), start=1):
            if self._is_stopped:
                return
            await self._take(thread, service, account)
            self._bar.show("taking ", done, total)

    async def _take(self, thread: PastThread, service: ImportService, account: Account) -> None:
        options = self._options
        subject = options.user or thread.owner
        if subject is None or not is_name(subject):
            account.refuse(thread, "no_owner")
            return
        owner = Principal(subject, options.tenant, frozenset(), expires_at=0)
        try:
            taken = await service.take(thread, owner, options.tutors, dry_run=options.dry_run)
        except NotFoundError:
            account.refuse(thread, "no_assistant")
        except DomainError:
            raise
        except Exception as error:  # noqa: BLE001 - one thread never stops the others
            # By its name alone: what a database says of a row may hold the student's words.
            log.error("a thread could not be written: %s", type(error).__name__)  # noqa: TRY400
            account.refuse(thread, "not_writable")
        else:
            account.note(thread, owner, taken)
