"""What bodies of the wire are made of."""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


def only(*defaults: Any) -> BeforeValidator:
    """Take what means nothing here; refuse what would be ignored."""

    def check(value: Any) -> Any:
        if value is not None and value not in defaults:
            raise PydanticCustomError("unsupported", "takes no other value than its default here.")
        return value

    return BeforeValidator(check)


class Strict(BaseModel):
    """A body: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
