"""Bodies as the wire has them. What it offers and nothing here honours is taken at its default."""

from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from app.api.compat.errors import WireError
from app.api.schemas import (
    MAX_FILES,
    FunctionTool,
    Json,
    Line,
    Metadata,
    PublicId,
    Text,
)
from app.domain.models import Part, PartKind, Role
from app.services.threads import Order, Said

MAX_ANSWER_CHARS: Final = 256_000
"""Of a message in the assistant's name; the limit of what students may say is the operator's."""
MAX_MESSAGES: Final = 100
"""Of one call; the wire sets no limit, and one transaction must end."""

_DEFAULTS: Final[dict[str, Any]] = {
    "name": None,
    "description": None,
    "instructions": None,
    "model": None,
    "tools": [],
    "temperature": 1.0,
    "top_p": 1.0,
    "response_format": "auto",
}
"""What a configuration is made of, and what null means in one."""


def _only(*defaults: Any) -> BeforeValidator:
    """Take what means nothing here; refuse what would be ignored."""

    def check(value: Any) -> Any:
        if value is not None and value not in defaults:
            raise PydanticCustomError("unsupported", "takes no other value than its default here.")
        return value

    return BeforeValidator(check)


def _texts(value: Any) -> Any:
    """Write a bare string as the one part that it means."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _format(value: Any) -> Any:
    if value is None or value == "auto":
        return "auto"
    match cast("object", value):
        case {"type": "text" | "json_object"} | {
            "type": "json_schema",
            "json_schema": {"name": str()},
        }:
            return value
        case _:
            raise PydanticCustomError("invalid", "Must be 'auto', or a format with its 'type'")


NoResources = Annotated[
    Any,
    _only(
        {},
        {"code_interpreter": None},
        {"file_search": None},
        {"code_interpreter": None, "file_search": None},
    ),
]
Temperature = Annotated[float, Field(ge=0, le=2, strict=False)]
TopP = Annotated[float, Field(ge=0, le=1, strict=False)]
Format = Annotated[Literal["auto"] | Json, BeforeValidator(_format)]
Model = Annotated[Line, StringConstraints(min_length=1, max_length=256)]
Instructions = Annotated[Text, StringConstraints(max_length=256_000)]


class Strict(BaseModel):
    """A body: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class TextPart(Strict):
    """A part of a message: text."""

    type: Literal["text"]
    text: Text


class ImageFile(Strict):
    """Which picture."""

    file_id: PublicId
    detail: Annotated[Any, _only("auto")] = None


class ImageFilePart(Strict):
    """A part of a message: a picture that was uploaded before."""

    type: Literal["image_file"]
    image_file: ImageFile


def _no_addresses(value: Any) -> Any:
    """Refuse pictures by address: nobody here fetches them, or lets others fetch them."""
    match cast("object", value):
        case {"type": "image_url"}:
            raise PydanticCustomError(
                "unsupported", "is taken by 'image_file' only: upload the picture first."
            )
        case _:
            return value


MessagePart = Annotated[
    Annotated[TextPart | ImageFilePart, Field(discriminator="type")],
    BeforeValidator(_no_addresses),
]


class MessageCreate(Strict):
    """A message, of either role."""

    role: Literal["user", "assistant"]
    content: Annotated[
        list[MessagePart], BeforeValidator(_texts), Field(min_length=1, max_length=64)
    ]
    attachments: Annotated[Any, _only([])] = None
    metadata: Metadata | None = None

    def said(self, max_chars: int) -> Said:
        """Return what is put into the thread.

        Raises:
            WireError: It is too long, or says nothing.
        """
        content = [
            Part(part.text)
            if isinstance(part, TextPart)
            else Part(kind=PartKind.IMAGE, file_id=part.image_file.file_id)
            for part in self.content
        ]
        pictures = [part for part in content if part.kind is PartKind.IMAGE]
        if len(pictures) > MAX_FILES:
            raise WireError(
                f"Invalid 'content': at most {MAX_FILES} pictures are taken.", param="content"
            )
        if self.role == "assistant":
            if pictures:
                raise WireError("Pictures are the user's to show.", param="content")
            max_chars = max(max_chars, MAX_ANSWER_CHARS)
        if sum(len(part.text) for part in content) > max_chars:
            raise WireError(
                f"Invalid 'content': string too long. Expected at most {max_chars} characters.",
                param="content",
                code="string_above_max_length",
            )
        if not pictures and not any(part.text.strip() for part in content):
            raise WireError("Message content must be non-empty.", param="content")
        return Said(Role(self.role), content, dict(self.metadata or {}))


Messages = Annotated[list[MessageCreate], Field(max_length=MAX_MESSAGES)]


class Annotation(Strict):
    """New metadata, of a message or a run."""

    metadata: Metadata | None = None


class ThreadCreate(Strict):
    """A new thread."""

    messages: Messages | None = None
    metadata: Metadata | None = None
    tool_resources: NoResources = None

    def said(self, max_chars: int) -> list[Said]:
        """Return what it begins with."""
        return [message.said(max_chars) for message in self.messages or ()]


class ThreadUpdate(Strict):
    """New metadata of a thread."""

    metadata: Metadata | None = None
    tool_resources: NoResources = None


class AssistantBase(Strict):
    """What an assistant is made of; null is the default."""

    name: Annotated[Line, StringConstraints(max_length=256)] | None = None
    description: Annotated[Text, StringConstraints(max_length=512)] | None = None
    instructions: Instructions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: Format = "auto"
    metadata: Metadata | None = None
    tool_resources: NoResources = None
    reasoning_effort: Annotated[Any, _only()] = None

    def changes(self) -> dict[str, Any]:
        """Return the fields of the configuration that were given."""
        given = self.model_dump(include=set(_DEFAULTS), exclude_unset=True)
        return {name: _DEFAULTS[name] if value is None else value for name, value in given.items()}


class AssistantCreate(AssistantBase):
    """A new assistant."""

    model: Model


class AssistantUpdate(AssistantBase):
    """Changes to an assistant; what is left out stays."""

    model: Model = ""


class RunBase(Strict):
    """A run of a thread that exists, or of one that is made with it."""

    assistant_id: PublicId
    instructions: Instructions | None = None
    model: Model | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=20)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: Format | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=256)] | None = None
    max_prompt_tokens: Annotated[Any, _only()] = None
    parallel_tool_calls: Annotated[Any, _only(True)] = None  # noqa: FBT003 - the wire's default
    tool_choice: Annotated[Any, _only("auto")] = None
    truncation_strategy: Annotated[
        Any, _only({"type": "auto"}, {"type": "auto", "last_messages": None})
    ] = None

    def order(self) -> Order:
        """Return the run that is wanted; null means as the assistant has it."""
        changes = self.model_dump(include=set(_DEFAULTS), exclude_none=True)
        if self.max_completion_tokens is not None:
            changes["max_output_tokens"] = self.max_completion_tokens
        return Order(
            assistant_id=self.assistant_id,
            changes=changes,
            metadata=dict(self.metadata or {}),
            wants_stream=bool(self.stream),
        )


class RunCreate(RunBase):
    """A run of a thread that exists."""

    additional_instructions: Instructions | None = None
    additional_messages: Messages | None = None
    reasoning_effort: Annotated[Any, _only()] = None


class ThreadRunCreate(RunBase):
    """A thread, and its first run."""

    thread: ThreadCreate | None = None
    tool_resources: NoResources = None
