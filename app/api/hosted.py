"""Tools that the upstream runs, what they work on, and the form of answers: for both faces."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
MAX_TOOL_FILES: Final = 20
"""That code may read."""
MAX_STORES: Final = 1
"""That a tutor may search."""
Id = Annotated[str, StringConstraints(max_length=128)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Brief(_In):
    """A part of a body, written without what was left out."""

    @model_serializer
    def _brief(self) -> dict[str, Any]:
        members = {
            field.alias or name: getattr(self, name)
            for name, field in type(self).model_fields.items()
        }
        return {name: value for name, value in members.items() if value is not None}


# ---------------------------------------------------------------- tools


class CodeInterpreterTool(_In):
    """The tutor may write code, and run it."""

    type: Literal["code_interpreter"]


class RankingOptions(Brief):
    """Which results are worth their while."""

    score_threshold: Annotated[float, Field(ge=0, le=1, strict=False)]
    ranker: Literal["auto", "default_2024_08_21"] | None = None


class FileSearchSettings(Brief):
    """How files are searched."""

    max_num_results: Annotated[int, Field(ge=1, le=50)] | None = None
    ranking_options: RankingOptions | None = None


class FileSearchTool(Brief):
    """The tutor may search files in a vector store."""

    type: Literal["file_search"]
    file_search: FileSearchSettings | None = None


def by_type(models: dict[str, type[BaseModel]]) -> Callable[[Any, Any], Any]:
    """Return what reads a value by its `type`: one of several models, one set of complaints."""

    def read(value: Any, _: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        kind: Any = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            known = ", ".join(models)
            raise PydanticCustomError("invalid", "must have a type of {known}", {"known": known})
        return model.model_validate(value)

    return read


# ---------------------------------------------------------------- what they work on


class CodeFiles(Brief):
    """Files that code may read."""

    file_ids: Annotated[list[Id], Field(max_length=MAX_TOOL_FILES)] | None = None


class SearchedStores(Brief):
    """The vector store that is searched."""

    vector_store_ids: Annotated[list[Id], Field(max_length=MAX_STORES)] | None = None


class ToolResources(Brief):
    """What tools work on: files and vector stores of your own."""

    code_interpreter: CodeFiles | None = None
    file_search: SearchedStores | None = None


# ---------------------------------------------------------------- the form of answers


def _object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type", "object")
    if kind != "object":
        raise PydanticCustomError(
            "invalid_schema", "schema must be a JSON Schema of 'type: \"object\"'"
        )
    return schema


class JsonSchema(Brief):
    """A schema that answers satisfy; any object does where it is left out."""

    name: Annotated[str, StringConstraints(pattern=NAME)]
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    schema_: Annotated[dict[str, Any], AfterValidator(_object_schema)] | None = Field(
        None, alias="schema"
    )
    strict: bool | None = None


class ResponseFormat(Brief):
    """The form of answers: text, any JSON object, or one that satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def _with_its_type(cls, value: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        kind = info.data.get("type")
        if value is None and kind == "json_schema":
            raise PydanticCustomError("missing", "Field required")
        if value is not None and kind in {"text", "json_object"}:
            raise PydanticCustomError("extra_forbidden", "belongs to the type 'json_schema' only")
        return value


def read_format(value: Any, _: Any) -> Any:
    """Read a form of answers."""
    if value == "auto":
        return "auto"
    return ResponseFormat.model_validate(value)


HOSTED_MODELS: Final[tuple[type[BaseModel], ...]] = (
    FileSearchTool,
    FileSearchSettings,
    RankingOptions,
    ToolResources,
    CodeFiles,
    SearchedStores,
    ResponseFormat,
    JsonSchema,
)
"""Those whose names a request may use."""
