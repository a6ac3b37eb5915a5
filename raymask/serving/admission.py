"""How many requests come in and wait, which are sent away, and the end of a server: what is under way is answered first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import ClientDisconnect

from raymask.serving.requests import Limits, Refusal

CLOSED = 499
"""What is counted where the client is gone; nginx has the number too."""

LEAVE = {"Retry-After": "1", "Connection": "close"}


class Gate:
    """Places of one server's requests. It is changed in the server's thread alone, but for `draining`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.uploads = 0
        """Requests whose bodies are still coming in."""
        self.waiting = 0
        """Requests that have come in whole, and have no answer yet."""
        self.held = 0
        """Bytes of bodies in memory."""
        self.draining = False

    @property
    def under_way(self) -> int:
        """Requests that have no answer yet."""
        return self.uploads + self.waiting

    @contextmanager
    def upload(self) -> Iterator[None]:
        """A place for a body while it comes in; it takes none of those of whole requests.

        Raises:
            Refusal: there is none, or the server ends.
        """
        if self.draining:
            raise Refusal(503, "The server ends and takes no more requests; ask another, or try again later.", LEAVE)
        if self.uploads >= self.limits.uploads:
            raise Refusal(503, f"The server is busy with {self.uploads} uploads; try again in a second.", LEAVE)
        self.uploads += 1
        try:
            yield
        finally:
            self.uploads -= 1

    @asynccontextmanager
    async def place(self, size: int) -> AsyncIterator[None]:
        """A place for a request that has come in whole, and time for its answer.

        Args:
            size: bytes of its body.

        Raises:
            Refusal: there is no place, or the time is over.
        """
        limits = self.limits
        if self.waiting >= limits.waiting or (self.waiting and self.held + size > limits.most_held):
            raise Refusal(503, f"The server is busy with {self.waiting} requests; try again in a second.", {"Retry-After": "1"})
        self.waiting, self.held = self.waiting + 1, self.held + size
        try:
            async with asyncio.timeout(limits.timeout_s):
                yield
        except TimeoutError:
            raise Refusal(504, f"There was no answer within {limits.timeout_s:g} s; the server is busy.") from None
        finally:
            self.waiting, self.held = self.waiting - 1, self.held - size


@contextmanager
def leaving() -> Iterator[None]:
    """A client that is gone as the refusal that is counted for it.

    Raises:
        Refusal: it is gone.
    """
    try:
        yield
    except ClientDisconnect:
        raise Refusal(CLOSED, "The client is gone.") from None
