"""Files of any upstream that speaks the wire: `/files` is the same in all its dialects.

A file passes through in pieces, both ways. The SDK would read one whole to make a form of it, so
that the form is made here and sent on the SDK's own transport.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import quote

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from app.adapters.wire.errors import interrupted, translate
from app.domain.errors import NotDownloadableError, NotFoundError, UpstreamError
from app.ports import FilePurpose

LISTED: Final = 100
CLOCKS_APART: Final = timedelta(minutes=10)
"""How far the upstream's clock may be from ours."""
_GONE: Final = frozenset({"upstream_not_found", "upstream_files_lost"})
_VendorError = openai.OpenAIError | httpx2.HTTPError | aiohttp.ClientError | TimeoutError
_VENDOR: Final = (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class FilesConfig:
    """Where the upstream is, and how long it may take."""

    api_key: str
    base_url: str | None
    answer_s: float
    """For its answer to what is no upload."""
    transfer_s: float
    """For a whole file, either way."""
    max_connections: int


class WireFiles:
    """A server that keeps files as the wire has them."""

    def __init__(self, config: FilesConfig) -> None:
        self._config = config
        limits = httpx2.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
        )
        timeout = httpx2.Timeout(config.answer_s, connect=10, read=None)
        self._http = DefaultAioHttpClient(limits=limits, timeout=timeout, follow_redirects=False)
        self._client = AsyncOpenAI(
            api_key=config.api_key,
            base_url=config.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=self._http,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def upload(
        self, name: str, media_type: str, purpose: FilePurpose, pieces: AsyncIterator[bytes]
    ) -> str:
        """Send a file while it is read; return the upstream's id."""
        boundary = secrets.token_hex(16)
        form = _Form(boundary, name, media_type, purpose, pieces)
        request = self._http.build_request(
            "POST",
            f"{self._client.base_url}files",
            headers={
                "Authorization": f"Bearer {self._config.api_key}",
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Accept": "application/json",
            },
            content=form.body(),
        )
        with _translated(form):
            async with asyncio.timeout(self._config.transfer_s):
                response = await self._http.send(request)
            found = _body(response)
            if response.is_error:
                raise openai.APIStatusError("", response=response, body=found.get("error"))
            file_id: str = found["id"]
        return file_id

    @asynccontextmanager
    async def download(self, upstream_id: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Open a file's content, to be read while the block lasts."""
        path = f"{self._client.base_url}files/{quote(upstream_id, safe='')}/content"
        request = self._http.build_request(
            "GET",
            path,
            headers={
                "Authorization": f"Bearer {self._config.api_key}",
                "Accept": "application/binary",
                "Accept-Encoding": "identity",
            },
        )
        with _translated():
            async with asyncio.timeout(self._config.answer_s):
                response = await self._http.send(request, stream=True)
        try:
            await _check_content(response)
            yield self._pieces(response)
        finally:
            await response.aclose()

    async def _pieces(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        with _translated():
            # Every piece by itself: whoever reads slowly must not run into a deadline of ours.
            pieces = aiter(cast("httpx2.AsyncByteStream", response.stream))
            while True:
                async with asyncio.timeout(self._config.answer_s):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece

    async def find(self, prefix: str, *, since: datetime) -> Sequence[str]:
        """Return the ids of files whose names begin so, among those made since then."""
        oldest = (since - CLOCKS_APART).timestamp()
        found: list[str] = []
        query: dict[str, Any] = {"limit": LISTED, "order": "desc"}
        while True:
            page = await self.call("get", "/files", query)
            items: list[dict[str, Any]] = page["data"]
            found += [item["id"] for item in items if item["filename"].startswith(prefix)]
            if not page.get("has_more") or not items or items[-1]["created_at"] < oldest:
                return found
            query["after"] = items[-1]["id"]

    async def delete(self, upstream_id: str) -> None:
        """Delete it; one that is gone already is fine."""
        await self.discard(f"/files/{quote(upstream_id, safe='')}")

    async def discard(self, path: str) -> None:
        """Delete what is at a path; what is gone already is fine."""
        try:
            await self.call("delete", path)
        except UpstreamError as error:
            if error.code not in _GONE:
                raise

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call and read plain JSON.

        Raises:
            UpstreamError: It is no answer that could be used.
        """
        options: dict[str, Any] = {"params": dict(query)} if query else {}
        sent = {} if body is None else {"body": body}
        with _translated():
            async with asyncio.timeout(self._config.answer_s):
                call = getattr(self._client, method)
                response = await call(path, cast_to=httpx2.Response, options=options, **sent)
                return _body(response)


class _Form:
    """The form that carries a file, made as the file is read."""

    def __init__(
        self,
        boundary: str,
        name: str,
        media_type: str,
        purpose: FilePurpose,
        pieces: AsyncIterator[bytes],
    ) -> None:
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        disposition = f'Content-Disposition: form-data; name="file"; filename="{escaped}"'
        self._head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="purpose"\r\n\r\n{purpose.value}\r\n'
            f"--{boundary}\r\n{disposition}\r\nContent-Type: {media_type}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._pieces = pieces
        self.failure: BaseException | None = None
        """Why the file could not be read: the transport tells of it in words of its own."""

    async def body(self) -> AsyncIterator[bytes]:
        """Give the form's bytes; what can't be read whole is never closed, so never taken."""
        yield self._head
        try:
            async for piece in self._pieces:
                yield piece
        except BaseException as error:
            self.failure = error
            raise
        yield self._tail


def _body(response: httpx2.Response) -> dict[str, Any]:
    try:
        found: Any = json.loads(response.content)
    except ValueError:
        if response.is_error:
            return {}
        raise
    if not isinstance(found, dict):
        raise TypeError
    return cast("dict[str, Any]", found)


async def _check_content(response: httpx2.Response) -> None:
    """Refuse what is no content, before anything of it is passed on."""
    if not response.is_error:
        return
    with _translated():
        await response.aread()
        found = _body(response)
    if response.status_code in {HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN}:
        # It was told as little of us as of the file: it gives back no file of this purpose.
        raise NotDownloadableError
    if response.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundError
    error = openai.APIStatusError("", response=response, body=found.get("error"))
    raise translate(error) from None


def _as_the_sdk_has_it(error: _VendorError) -> _VendorError:
    """Wrap what the bare transport raises where its name alone says the wrong thing."""
    if not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return error
    wrapped = openai.APIConnectionError(request=error.request)
    wrapped.__cause__ = error
    return wrapped


@contextmanager
def _translated(form: _Form | None = None) -> Generator[None]:
    try:
        yield
    except _VENDOR as error:
        if form is not None and isinstance(form.failure, Exception):
            raise form.failure from None
        raise translate(_as_the_sdk_has_it(error)) from None
    except (KeyError, TypeError, ValueError):
        raise interrupted("upstream_garbage") from None
