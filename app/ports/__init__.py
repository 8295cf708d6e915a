"""The protocols that the services own; adapters satisfy them structurally.

A unit of work is one database transaction: it commits when its block ends well, and is never
held across an upstream call or between two events of a stream.
"""

from app.ports.imports import Imported, Imports
from app.ports.log import Append, Cursor, EventLog, LogState, ThreadMark
from app.ports.queue import Claim, Queue, Thread, Upkeep
from app.ports.records import (
    Admission,
    Answers,
    AssistantLock,
    Assistants,
    AssistantVersion,
    FirstAnswer,
    Messages,
    Page,
    PageQuery,
    RequestKey,
    Runs,
    SessionChange,
    Sessions,
    TicketGrant,
    Tickets,
    Users,
    VersionKey,
)
from app.ports.storage import Database, UnitOfWork, Wake, Wakes, WakeUps
from app.ports.tools import ToolContext, Tools
from app.ports.upstream import (
    Calls,
    Ended,
    Generation,
    Restarted,
    Started,
    Step,
    TextDelta,
    TokenVerifier,
    Turn,
    Tutors,
    Upstream,
    UpstreamEvent,
)

__all__ = [
    "Admission",
    "Answers",
    "Append",
    "AssistantLock",
    "AssistantVersion",
    "Assistants",
    "Calls",
    "Claim",
    "Cursor",
    "Database",
    "Ended",
    "EventLog",
    "FirstAnswer",
    "Generation",
    "Imported",
    "Imports",
    "LogState",
    "Messages",
    "Page",
    "PageQuery",
    "Queue",
    "RequestKey",
    "Restarted",
    "Runs",
    "SessionChange",
    "Sessions",
    "Started",
    "Step",
    "TextDelta",
    "Thread",
    "ThreadMark",
    "TicketGrant",
    "Tickets",
    "TokenVerifier",
    "ToolContext",
    "Tools",
    "Turn",
    "Tutors",
    "UnitOfWork",
    "Upkeep",
    "Upstream",
    "UpstreamEvent",
    "Users",
    "VersionKey",
    "Wake",
    "WakeUps",
    "Wakes",
]
