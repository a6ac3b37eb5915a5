"""Places that are handed out by turns: whoever wants many waits behind those who want one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Turns:
    """A semaphore whose free places go round among owners, and not to whoever asked first.

    Deficit round robin of equal costs: each owner that waits gets one place, in the order in which they came, then each the next.
    """

    def __init__(self, places: int) -> None:
        self.free = places
        self.waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, owner: Hashable) -> AsyncIterator[None]:
        """A place, held while the context lasts."""
        await self._take(owner)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, owner: Hashable) -> None:
        if self.free and not self.waiting:
            self.free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given a place at the moment when it was cancelled
                self._give_back()
            else:
                self._forget(owner, turn)
            raise

    def _forget(self, owner: Hashable, turn: asyncio.Future[None]) -> None:
        turns = self.waiting.get(owner, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self.waiting.pop(owner, None)

    def _give_back(self) -> None:
        self.free += 1
        while self.free and self.waiting:
            owner, turns = self.waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self.waiting[owner] = turns
            if not turn.done():
                self.free -= 1
                turn.set_result(None)
