"""One address before several processes, as a proxy has it: who is gone is passed over."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Forwarder:
    """Hands each connection to the first process that takes it, bytes as they are."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._ports = [urlsplit(url).port or 0 for url in urls]
        self.url = ""
        self.taken = [0 for _ in urls]
        """Connections that each of the processes was given."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        behind = await self._behind()
        if behind is not None:
            there, back = behind
            ways = [
                asyncio.create_task(_carry(reader, back)),
                asyncio.create_task(_carry(there, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                back.close()
        writer.close()

    async def _behind(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for number, port in enumerate(self._ports):
            with suppress(OSError):
                found = await asyncio.open_connection("127.0.0.1", port)
                self.taken[number] += 1
                return found
        return None


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def forwarding(urls: Sequence[str]) -> AsyncIterator[Forwarder]:
    """Listen on a port of its own while the block lasts."""
    forwarder = Forwarder(urls)
    server = await asyncio.start_server(forwarder.serve, "127.0.0.1", 0)
    forwarder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield forwarder
    finally:
        server.close()
