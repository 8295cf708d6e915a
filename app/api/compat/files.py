"""Files, in the wire's words."""

from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.api import present
from app.api.compat import objects
from app.api.compat.deps import Caller
from app.api.compat.errors import WireError, WireRoute
from app.api.deps import FileId, Services
from app.api.files import download
from app.api.multipart import UploadForm, body_of
from app.domain.errors import NotDownloadableError, NotFoundError
from app.domain.ids import is_id
from app.ports import FilePurpose, PageQuery
from app.services.files import Sent

PATH: Final = "/openai/v1/files"
router = APIRouter(route_class=WireRoute, prefix="/files")

MAX_PAGE: Final = 100
"""Of one answer; the wire's 10,000 would be one statement too, but nobody's screen."""


@router.post("")
async def create_file(user: Caller, services: Services, request: Request) -> Response:
    """Send a file; it passes through to the upstream."""
    form = UploadForm(request.headers, body_of(request))
    content = await form.begin()
    if content is None:
        raise WireError("'file' is a required property")
    sent = Sent(form.filename, content, usual=FilePurpose.ASSISTANTS)
    if "purpose" in form.fields:
        sent.purpose = _purpose(form)
    sent.pieces = _purposed(form, content, sent)
    return present.body(objects.file(await services.files.upload(user, sent)))


async def _purposed(
    form: UploadForm, content: AsyncIterator[bytes], sent: Sent
) -> AsyncIterator[bytes]:
    """Read the purpose too, which Node's SDK sends behind the file."""
    async for piece in content:
        yield piece
    sent.purpose = _purpose(form)


def _purpose(form: UploadForm) -> FilePurpose:
    for name in form.fields:
        if name != "purpose":
            raise WireError(
                "Unsupported parameter: only 'file' and 'purpose' are taken here.",
                code="unsupported_parameter",
            )
    if "purpose" not in form.fields:
        raise WireError("'purpose' is a required property")
    try:
        return FilePurpose(form.fields["purpose"])
    except ValueError:
        known = [purpose.value for purpose in FilePurpose]
        raise WireError(f"The purpose is not one of {known} - 'purpose'") from None


@router.get("")
async def list_files(  # noqa: PLR0913, PLR0917 - the wire's query
    user: Caller,
    services: Services,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = MAX_PAGE,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    after: str | None = None,
) -> Response:
    """List them by age, at most a hundred at once."""
    if after is not None and not is_id(after):
        raise NotFoundError("The cursor names no item of this list.")
    page = PageQuery(min(limit, MAX_PAGE), order == "desc", after)
    found = await services.files.list(user, page, purpose=purpose)
    return objects.page([objects.file(item) for item in found.items], has_more=found.has_more)


@router.get("/{file_id}")
async def retrieve_file(user: Caller, services: Services, file_id: FileId) -> Response:
    """Return what is known of one."""
    return present.body(objects.file(await services.files.get(user, file_id)))


@router.get("/{file_id}/content")
async def retrieve_content(user: Caller, services: Services, file_id: FileId) -> Response:
    """Return its content, where the upstream gives it back."""
    try:
        return await download(services, user, file_id)
    except NotDownloadableError:
        purpose = objects.file(await services.files.get(user, file_id))["purpose"]
        raise WireError(f"Not allowed to download files of purpose: {purpose}") from None


@router.delete("/{file_id}")
async def delete_file(user: Caller, services: Services, file_id: FileId) -> Response:
    """Delete it."""
    await services.files.delete(user, file_id)
    return present.body({"id": file_id, "object": "file", "deleted": True})
