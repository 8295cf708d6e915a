"""Bodies as the wire has them. What it offers and nothing here honours is taken at its default."""

from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from app.api.compat.errors import WireError
from app.api.compat.fields import Strict, only
from app.api.compat.store_bodies import NewStore
from app.api.fields import Json, Line, Metadata, PublicId, Text
from app.api.hosted import Brief, CodeFiles, SearchedStores
from app.api.schemas import MAX_FILES, Format, Tool
from app.domain.models import Part, PartKind, Role
from app.services import actions
from app.services.threads import Order, Said

MAX_ANSWER_CHARS: Final = 256_000
"""Of a message in the assistant's name; the limit of what students may say is the operator's."""
MAX_MESSAGES: Final = 100
"""Of one call; the wire sets no limit, and one transaction must end."""

_NONE: Final[dict[str, Any]] = {}
_DEFAULTS: Final[dict[str, Any]] = {
    "name": None,
    "description": None,
    "instructions": None,
    "model": None,
    "tools": [],
    "tool_resources": {},
    "temperature": 1.0,
    "top_p": 1.0,
    "response_format": "auto",
}
"""What a configuration is made of, and what null means in one."""


def _texts(value: Any) -> Any:
    """Write a bare string as the one part that it means."""
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _auto(value: Any) -> Any:
    return "auto" if value is None else value


def _choice(value: Any) -> Any:
    match cast("object", value):
        case str() | {"type": "function", "function": {"name": str()}}:
            return value
        case _:
            words = "Must be 'auto', 'none', 'required', or a function with its 'name'"
            raise PydanticCustomError("invalid", words)


NoResources = Annotated[
    Any,
    only(
        {},
        {"code_interpreter": None},
        {"file_search": None},
        {"code_interpreter": None, "file_search": None},
    ),
]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
Model = Annotated[Line, StringConstraints(min_length=1, max_length=256)]
Instructions = Annotated[Text, StringConstraints(max_length=256_000)]


class TextPart(Strict):
    """A part of a message: text."""

    type: Literal["text"]
    text: Text


class ImageFile(Strict):
    """Which picture."""

    file_id: PublicId
    detail: Annotated[Any, only("auto")] = None


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
    attachments: Annotated[Any, only([])] = None
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


class AssistantStores(SearchedStores):
    """The vector store that an assistant searches, or one that is made with it."""

    vector_stores: Annotated[list[NewStore], Field(max_length=1)] | None = None


class AssistantResources(Brief):
    """What an assistant's tools work on."""

    code_interpreter: CodeFiles | None = None
    file_search: AssistantStores | None = None


class AssistantBase(Strict):
    """What an assistant is made of; null is the default."""

    name: Annotated[Line, StringConstraints(max_length=256)] | None = None
    description: Annotated[Text, StringConstraints(max_length=512)] | None = None
    instructions: Instructions | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: Annotated[Format, BeforeValidator(_auto)] = "auto"
    metadata: Metadata | None = None
    tool_resources: AssistantResources | None = None
    reasoning_effort: Annotated[Any, only()] = None

    def new_store(self) -> NewStore | None:
        """Return the vector store that is to be made with it.

        Raises:
            WireError: It is to search another one already.
        """
        found = self.tool_resources and self.tool_resources.file_search
        if not found or not found.vector_stores:
            return None
        if found.vector_store_ids:
            raise WireError(
                "Give 'vector_store_ids' or 'vector_stores', not both.",
                param="tool_resources.file_search",
            )
        return found.vector_stores[0]

    def changes(self) -> dict[str, Any]:
        """Return the fields of the configuration that were given."""
        given = self.model_dump(include=set(_DEFAULTS), exclude_unset=True)
        search: dict[str, Any] = (given.get("tool_resources") or _NONE).get("file_search") or _NONE
        search.pop("vector_stores", None)
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
    tools: Annotated[list[Tool], Field(max_length=20)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: Format | None = None
    metadata: Metadata | None = None
    stream: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=256)] | None = None
    max_prompt_tokens: Annotated[Any, only()] = None
    parallel_tool_calls: bool | None = None
    tool_choice: (
        Annotated[Literal["auto", "none", "required"] | Json, AfterValidator(_choice)] | None
    ) = None
    truncation_strategy: Annotated[
        Any, only({"type": "auto"}, {"type": "auto", "last_messages": None})
    ] = None

    def order(self) -> Order:
        """Return the run that is wanted; null means as the assistant has it."""
        own = set(_DEFAULTS) - {"tool_resources"}
        changes = self.model_dump(include=own, exclude_none=True)
        if self.max_completion_tokens is not None:
            changes["max_output_tokens"] = self.max_completion_tokens
        if self.tool_choice not in (None, "auto"):
            changes["tool_choice"] = self.tool_choice
        if self.parallel_tool_calls is False:
            changes["parallel_tool_calls"] = False
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
    reasoning_effort: Annotated[Any, only()] = None


class ThreadRunCreate(RunBase):
    """A thread, and its first run."""

    thread: ThreadCreate | None = None
    tool_resources: NoResources = None


class ToolOutput(Strict):
    """What a function returned; nothing, if it is left out."""

    tool_call_id: Annotated[str, StringConstraints(max_length=128)]
    output: Text | None = None


class ToolOutputsSubmit(Strict):
    """What all functions returned that a run waits for."""

    tool_outputs: Annotated[list[ToolOutput], Field(max_length=128)]
    stream: bool | None = None

    def given(self, max_chars: int) -> list[actions.ToolOutput]:
        """Return the outputs.

        Raises:
            WireError: They are too long together.
        """
        given = [
            actions.ToolOutput(each.tool_call_id, each.output or "") for each in self.tool_outputs
        ]
        if sum(len(each.output) for each in given) > max_chars:
            raise WireError(
                f"Invalid 'tool_outputs': too long. Expected at most {max_chars} characters "
                "of all outputs together.",
                param="tool_outputs",
                code="string_above_max_length",
            )
        return given
