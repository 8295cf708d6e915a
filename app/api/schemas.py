"""Bodies as clients send and see them; strict on the way in, complete on the way out."""

from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WrapValidator

from app.api import examples, hosted
from app.api.fields import Json, Line, Metadata, PublicId, Text, object_schema, storable_model
from app.domain.models import MessageStatus, Role, RunStatus, SessionStatus
from app.services.runs import OnActiveRun

T = TypeVar("T")

MAX_FILES: Final = 10
"""In one message."""


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


# ---------------------------------------------------------------- in


class FunctionDef(_In):
    """A function that the tutor may ask to have called."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[Text, StringConstraints(max_length=4096)] | None = None
    parameters: Annotated[Json, AfterValidator(object_schema)] | None = Field(
        None,
        description="A schema of an object. Left out, and with the name of one of the server's "
        "own tools: that tool; else the function has no parameters.",
    )
    strict: bool | None = None


class FunctionTool(_In):
    """A function tool, as Assistants have it."""

    type: Literal["function"]
    function: FunctionDef


Tool = Annotated[
    FunctionTool | hosted.CodeInterpreterTool | hosted.FileSearchTool,
    WrapValidator(
        hosted.by_type(
            {
                "code_interpreter": hosted.CodeInterpreterTool,
                "file_search": hosted.FileSearchTool,
                "function": FunctionTool,
            }
        )
    ),
]
Format = Annotated[
    Literal["auto"] | hosted.ResponseFormat,
    WrapValidator(hosted.read_format),
    AfterValidator(storable_model),
]


class AssistantCreate(_In):
    """A new tutor."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.ASSISTANT_CREATE]})
    model: Annotated[Line, StringConstraints(min_length=1, max_length=256)]
    name: Annotated[Line, StringConstraints(max_length=256)] | None = None
    description: Annotated[Text, StringConstraints(max_length=512)] | None = None
    instructions: Annotated[Text, StringConstraints(max_length=256_000)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] = []
    tool_resources: Annotated[hosted.ToolResources, AfterValidator(storable_model)] = (
        hosted.ToolResources()
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    response_format: Format = "auto"
    metadata: Metadata = {}


class AssistantUpdate(_In):
    """Changes to a tutor: its next version. What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Algebra Tutor"}]})
    model: Annotated[Line, StringConstraints(min_length=1, max_length=256)] = ""
    name: Annotated[Line, StringConstraints(max_length=256)] | None = None
    description: Annotated[Text, StringConstraints(max_length=512)] | None = None
    instructions: Annotated[Text, StringConstraints(max_length=256_000)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] = []
    tool_resources: Annotated[hosted.ToolResources, AfterValidator(storable_model)] = (
        hosted.ToolResources()
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    response_format: Format = "auto"
    metadata: Metadata = {}


class Nothing(_In):
    """A body that says nothing."""


class SessionCreate(_In):
    """A new tutoring session."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SESSION_CREATE]})
    assistant_id: PublicId | None = Field(None, description="Left out: the default assistant.")
    title: Annotated[Line, StringConstraints(max_length=256)] | None = None
    metadata: Metadata = {}


class SessionUpdate(_In):
    """Changes to a session. What is left out stays; a title of null is removed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Quadratics"}]})
    title: Annotated[Line, StringConstraints(max_length=256)] | None = None
    metadata: Metadata | None = None
    status: Annotated[Literal["ended"] | None, Field(description="Takes no new messages.")] = None


class TextPartIn(_In):
    """A part of a message: text."""

    type: Literal["text"]
    text: Text


class FilePartIn(_In):
    """A part of a message: a picture to look at, or a file to read, uploaded before."""

    type: Literal["image", "file"]
    file_id: PublicId


PartIn = Annotated[TextPartIn | FilePartIn, Field(discriminator="type")]


class MessageCreate(_In):
    """What the student says, and shows."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [examples.MESSAGE_CREATE, examples.PICTURE_CREATE]}
    )
    content: Text | Annotated[list[PartIn], Field(min_length=1, max_length=64)]
    run: bool = Field(
        default=True, description="False only stores the message; the next run sees it."
    )
    on_active_run: Annotated[OnActiveRun, Field(strict=False)] = Field(
        OnActiveRun.REJECT,
        description="With an unfinished run: refuse (409), wait in order, or cancel it first.",
    )
    metadata: Metadata = {}


class RunCreate(_In):
    """Another answer to the transcript as it stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})
    on_active_run: Annotated[OnActiveRun, Field(strict=False)] = OnActiveRun.REJECT
    metadata: Metadata = {}


class ToolOutputIn(_In):
    """What a function returned."""

    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    output: Text


class ToolOutputsCreate(_In):
    """What all functions returned that a run waits for."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.TOOL_OUTPUTS]})
    tool_outputs: Annotated[list[ToolOutputIn], Field(min_length=1, max_length=128)]


# ---------------------------------------------------------------- out


class UserOut(BaseModel):
    """Who the caller is, what the caller may have at once, and what is left of it."""

    id: str
    object: Literal["user"]
    subject: str
    tenant: str | None
    scopes: list[str]
    limits: dict[str, int]
    remaining: dict[str, int]


class AssistantOut(BaseModel):
    """A tutor.

    Others than its owner see `instructions`, `tools` and `tool_resources` only with scope
    `assistants:write`.
    """

    id: str
    object: Literal["assistant"]
    name: str | None
    description: str | None
    instructions: str | None = None
    model: str
    tools: list[dict[str, Any]] = []
    tool_resources: dict[str, Any] = {}
    temperature: float
    top_p: float
    response_format: str | dict[str, Any]
    metadata: dict[str, str]
    version: int
    created_at: datetime
    updated_at: datetime


class SessionOut(BaseModel):
    """A tutoring session."""

    id: str
    object: Literal["session"]
    assistant_id: str
    title: str | None
    status: SessionStatus
    metadata: dict[str, str]
    active_run_id: str | None
    last_seq: int = Field(description="The newest event's place in the session's log.")
    created_at: datetime
    updated_at: datetime


class PartOut(BaseModel):
    """A part of a message: words, or a file, which may have been deleted since."""

    type: Literal["text", "refusal", "image", "file"]
    text: str | None = None
    annotations: list[dict[str, Any]] | None = None
    file_id: str | None = None


class FileOut(BaseModel):
    """A file of yours."""

    id: str
    object: Literal["file"]
    filename: str
    bytes: int
    media_type: str = Field(description="What its first bytes say that it is.")
    created_at: datetime


class MessageOut(BaseModel):
    """One turn of the conversation."""

    id: str
    object: Literal["message"]
    session_id: str
    run_id: str | None
    role: Role
    status: MessageStatus
    content: list[PartOut]
    metadata: dict[str, str]
    seq: int
    created_at: datetime
    completed_at: datetime | None


class UsageOut(BaseModel):
    """Tokens, as the upstream counted them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class LastErrorOut(BaseModel):
    """Why a run ended badly."""

    code: str
    message: str = Field(description="Words that a frontend can show.")


class IncompleteOut(BaseModel):
    """Why an answer is not whole."""

    reason: str


class RunOut(BaseModel):
    """A run. Poll until it ends, wait for it, or follow its events."""

    id: str
    object: Literal["run"]
    session_id: str
    assistant_id: str
    model: str
    status: RunStatus
    attempts: int
    input_message_id: str | None
    output_message_id: str | None
    required_action: dict[str, Any] | None
    last_error: LastErrorOut | None
    incomplete_details: IncompleteOut | None
    usage: UsageOut | None
    metadata: dict[str, str]
    seq: int
    created_at: datetime
    started_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None


class PostedOut(BaseModel):
    """What a POST of a message made."""

    message: MessageOut
    run: RunOut | None


class TicketOut(BaseModel):
    """A ticket for `?ticket=` of this session's event streams."""

    ticket: str
    expires_at: datetime = Field(description="First use until then; later ones until the token's.")


class ListOut(BaseModel, Generic[T]):
    """A page of a list."""

    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TranscriptOut(ListOut[MessageOut]):
    """A page of the transcript, told up to `last_seq`: follow the events after it."""

    last_seq: int


def field_names() -> frozenset[str]:
    """Return every name that a request may use, for errors that must not echo others."""
    models: tuple[type[BaseModel], ...] = (
        FunctionDef,
        FunctionTool,
        *hosted.HOSTED_MODELS,
        AssistantCreate,
        AssistantUpdate,
        SessionCreate,
        SessionUpdate,
        TextPartIn,
        FilePartIn,
        MessageCreate,
        RunCreate,
        ToolOutputIn,
        ToolOutputsCreate,
    )
    names = {name for model in models for name in model.model_fields}
    query = {"limit", "order", "after", "before", "run_id", "wait", "known", "ticket"}
    return frozenset(names | query | {"file", "image", "body", "query", "path", "header"})
