"""Everything the core may refuse to do, in domain words.

No HTTP here: `app.api.problems` maps errors to status codes. No message repeats the caller's
input, a student's words or a secret.
"""

from collections.abc import Sequence
from datetime import timedelta


class DomainError(Exception):
    """The base of all refusals; `code` is public and stable."""

    code = "error"

    def __init__(self, detail: str | None = None, *, retry_after: timedelta | None = None) -> None:
        super().__init__(detail or (self.__doc__ or "").partition("\n")[0])
        self.retry_after = retry_after

    @property
    def detail(self) -> str:
        """Words for the caller."""
        return str(self)

    def extras(self) -> dict[str, str]:
        """Further public members of the problem, if it has any."""
        return {}


class NotFoundError(DomainError):
    """There is no such resource, or it is somebody else's: the two look the same."""

    code = "not_found"


class UnauthenticatedError(DomainError):
    """A valid bearer token is required."""

    code = "unauthenticated"


class ForbiddenError(DomainError):
    """The token does not carry the scope that this needs."""

    code = "forbidden"


class InvalidRequestError(DomainError):
    """The request is well-formed, but asks for something that can't be."""

    code = "invalid_request"


class InvalidCursorError(DomainError):
    """The event cursor is not a whole number of at most 18 digits."""

    code = "invalid_cursor"


class SessionBusyError(DomainError):
    """A session holds at most one unfinished run."""

    code = "session_busy"

    def __init__(self, active_run_id: str) -> None:
        super().__init__()
        self.active_run_id = active_run_id

    def extras(self) -> dict[str, str]:
        """Name the run that is in the way."""
        return {"active_run_id": self.active_run_id}


class SessionEndedError(DomainError):
    """The session has ended and takes no new messages."""

    code = "session_ended"


class RunEndedError(DomainError):
    """The run has already ended."""

    code = "run_ended"


class NoActionRequiredError(DomainError):
    """The run does not wait for outputs of functions."""

    code = "no_action_required"

    def __init__(self, status: str) -> None:
        super().__init__()
        self.status = status


class ToolOutputsMismatchError(DomainError):
    """Each open call must be answered, and once."""

    code = "tool_outputs_mismatch"

    def __init__(self, open_calls: Sequence[str], given: Sequence[str]) -> None:
        super().__init__(f"Each open call must be answered, and once: {', '.join(open_calls)}.")
        self.open_calls = open_calls
        self.given = given


class NothingToAnswerError(DomainError):
    """The session has no message to answer yet."""

    code = "nothing_to_answer"


class DefaultAssistantError(DomainError):
    """The default assistant can't be deleted."""

    code = "default_assistant"


class InvalidIdempotencyKeyError(DomainError):
    """An `Idempotency-Key` has 1 to 255 visible ASCII characters."""

    code = "invalid_idempotency_key"


class IdempotencyKeyReusedError(DomainError):
    """This `Idempotency-Key` came with another body before."""

    code = "idempotency_key_reused"


class RequestInFlightError(DomainError):
    """The first request with this `Idempotency-Key` is being answered."""

    code = "request_in_flight"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=1))


class TooManyRunsError(DomainError):
    """Too many runs are waiting already."""

    code = "too_many_runs"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, retry_after=timedelta(seconds=5))


class QueueFullError(DomainError):
    """More questions are waiting than the tutors can take on; please ask again in a moment."""

    code = "queue_full"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=10))


class TooManyStreamsError(DomainError):
    """Too many streams are open for this user."""

    code = "too_many_streams"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=5))


class StorageUnavailableError(DomainError):
    """The database is unreachable for the moment; it is safe to try again."""

    code = "storage_unavailable"

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, retry_after=timedelta(seconds=2))


class StorageBusyError(StorageUnavailableError):
    """Somebody else holds a row for too long; nothing was written."""

    code = "storage_busy"


class ShuttingDownError(DomainError):
    """This process is going away; another one will answer."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=1))


class AuthUnavailableError(DomainError):
    """The keys that verify tokens can't be fetched for the moment."""

    code = "auth_unavailable"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=5))


class SchemaBehindError(DomainError):
    """The database's schema is not the one that this version needs: run `migrate`."""

    code = "schema_behind"


class FileRefusedError(DomainError):
    """The file can't be taken."""

    code = "file_refused"


class FileTooLargeError(DomainError):
    """The file is larger than files may be here."""

    code = "file_too_large"


class TooManyFilesError(DomainError):
    """The user keeps as many files, or bytes in files, as a user may; delete some first."""

    code = "too_many_files"


class TooManyStoresError(DomainError):
    """The user has as many vector stores as a user may; delete some first."""

    code = "too_many_stores"


class ResourceRefusedError(DomainError):
    """A tool names a file or a vector store that is not there, or is somebody else's."""

    code = "resource_refused"


class TooManyUploadsError(DomainError):
    """Too many files are being sent at once; please try again in a moment."""

    code = "too_many_uploads"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=5))


class NotDownloadableError(DomainError):
    """The upstream keeps the content of this file to itself."""

    code = "file_not_downloadable"


class FencedError(DomainError):
    """The run is no longer this worker's: it was taken over, ended or deleted."""

    code = "fenced"


class UpstreamError(DomainError):
    """The upstream could not answer."""

    code = "upstream_error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        retryable: bool = False,
        generated: bool = False,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.retryable = retryable
        self.generated = generated
        """Whether a generation may have begun, so that the thread's tail is in doubt."""
        if code is not None:
            self.code = code


class UpstreamInterruptedError(UpstreamError):
    """The upstream's stream stopped before its end."""

    code = "upstream_interrupted"

    def __init__(self, detail: str | None = None, *, code: str | None = None) -> None:
        super().__init__(detail, code=code, retryable=True, generated=True)


class ThreadBusyError(UpstreamError):
    """Another request holds the upstream thread."""

    code = "upstream_thread_busy"


class ThreadLostError(UpstreamError):
    """The upstream does not know the thread, or will not continue it."""

    code = "upstream_thread_lost"
