"""Refusals in the upstream's envelope."""

from typing import Any


class ApiError(Exception):
    """A request is refused with a status and `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return envelope(self.message, self.kind, self.param, self.code)


def envelope(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """Wrap an error as the upstream does."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def missing(param: str) -> ApiError:
    """A required parameter is absent."""
    return ApiError(
        400,
        f"Missing required parameter: '{param}'.",
        param=param,
        code="missing_required_parameter",
    )


def invalid(param: str, expected: str) -> ApiError:
    """A parameter is of the wrong type or outside its range."""
    return ApiError(
        400,
        f"Invalid value for '{param}': expected {expected}.",
        param=param,
        code="invalid_value",
    )


def conversation_not_found(conversation_id: str) -> ApiError:
    """No such conversation; also after a restart."""
    return ApiError(404, f"Conversation with id '{conversation_id}' not found.")


def file_not_found(file_id: str) -> ApiError:
    """No such file; also once it expired or was deleted."""
    return ApiError(404, f"No such File object: {file_id}", param="id")


def store_not_found(store_id: str) -> ApiError:
    """No such vector store."""
    return ApiError(404, f"Vector store with id '{store_id}' not found.")


def response_not_found(response_id: str) -> ApiError:
    """No such response; also of a foreground stream whose reader went away."""
    return ApiError(404, f"Response with id '{response_id}' not found.")
