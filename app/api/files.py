"""A user's files: pictures of homework, texts and documents, to be shown to the tutor."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from app.api import present, schemas
from app.api.deps import CurrentUser, FileId, PageOf, Services, UploadKey
from app.api.multipart import UploadForm, body_of
from app.api.problems import invalid, responses
from app.services.files import Sent

PATH: Final = "/v1/files"
router = APIRouter(prefix=PATH, tags=["files"], responses=responses(401, 422, 503))

_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "PNG, JPEG, GIF, WebP, PDF or UTF-8 text, with its "
                            "name. What it is, its bytes say.",
                        }
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    response_model=schemas.FileOut,
    status_code=201,
    responses=responses(400, 408, 409, 413, 415, 502),
    openapi_extra=_FORM,
)
async def upload_file(
    services: Services, user: CurrentUser, request: Request, key: UploadKey
) -> Response:
    """Send a file. It passes through to the upstream, and is yours from then on."""
    form = UploadForm(request.headers, body_of(request))
    content = await form.begin()
    if content is None:
        raise invalid(("body", "file"), "The form needs a file.")
    sent = Sent(form.filename, _strict(form, content), request=key)
    made = await services.files.upload(user, sent)
    return present.body(made.body(), 201, {"Location": f"{PATH}/{made.id}"})


async def _strict(form: UploadForm, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Refuse fields that are not known, while what is refused can still be given up."""
    async for piece in content:
        yield piece
    if form.fields:
        raise invalid(("body",), "There is a field here that is not known.")


@router.get("", response_model=schemas.ListOut[schemas.FileOut], responses=responses(404))
async def list_files(services: Services, user: CurrentUser, page: PageOf) -> Response:
    """List your files by age."""
    found = await services.files.list(user, page)
    return present.listing([item.body() for item in found.items], has_more=found.has_more)


@router.get("/{file_id}", response_model=schemas.FileOut, responses=responses(404))
async def read_file(services: Services, user: CurrentUser, file_id: FileId) -> Response:
    """Read what is known of a file."""
    return present.body((await services.files.get(user, file_id)).body())


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={
        200: {
            "description": "The content.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        },
        **responses(404, 409, 502),
    },
)
async def read_content(services: Services, user: CurrentUser, file_id: FileId) -> Response:
    """Download a file, where the upstream gives it back.

    OpenAI gives back what its tools have made, and keeps what was sent to it to itself: then this
    is a 409 `file_not_downloadable`. Show your users their own copy.
    """
    return await download(services, user, file_id)


async def download(services: Services, user: CurrentUser, file_id: str) -> Response:
    """Open a file's content, and answer with it as it comes."""
    stack = AsyncExitStack()
    file, pieces = await stack.enter_async_context(services.files.content(user, file_id))

    async def body() -> AsyncIterator[bytes]:
        async with stack:
            async for piece in pieces:
                yield piece

    return _Download(
        body(),
        stack,
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
            # Somebody else's bytes, under our name: nothing in them may be run.
            "Content-Security-Policy": "default-src 'none'; sandbox",
        },
    )


class _Download(StreamingResponse):
    """A content that is let go of, also where nobody reads it."""

    def __init__(
        self, content: AsyncIterator[bytes], stack: AsyncExitStack, headers: dict[str, str]
    ) -> None:
        super().__init__(content, headers=headers, media_type="application/octet-stream")
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.aclose()


@router.delete("/{file_id}", status_code=204, responses=responses(404, 409))
async def delete_file(services: Services, user: CurrentUser, file_id: FileId) -> Response:
    """Delete a file: gone at once here, and upstream as soon as the upstream allows.

    Messages keep their place for it; the tutor is told that it was deleted.
    """
    await services.files.delete(user, file_id)
    return Response(status_code=204)
