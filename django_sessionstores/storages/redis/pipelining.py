"""Automatic pipelining: commands that are asked for at the same time in an event loop go together.

With many requests at a time, most of what an awaited command costs is spent in the client: to take
a connection, to write to its socket, and to wait for it. Together, commands pay for that once.
"""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Any, Final

from redis import asyncio as awaited
from redis.exceptions import InvalidResponse

from .threads import filled

_Command = tuple[Any, ...]

MOST_TOGETHER: Final = 32
"""How many commands go together. More go at the same time, over another connection."""
LARGE: Final = 16_384
"""Bytes of an argument from which on a command goes by itself, so that no other waits for it."""
_ALONE: Final = object()
"""The result for a request whose command is the only one."""


class PipeliningClient(awaited.Redis):
    """A client for one event loop that sends commands together which are asked for together.

    A command waits until the loop has run what is ready, which takes no time if nothing is, and
    goes with those that came meanwhile. A command that no other joins goes as without pipelining.

    Each request gets the answer to its own command, or its own error. If the connection fails, all
    commands that went together have failed. To cancel a request does not stop the others.
    """

    def __init__(self, pool: awaited.ConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self._waiting: list[tuple[_Command, asyncio.Future[Any]]] = []
        self._sending = set[asyncio.Task[None]]()

    async def ask(self, command: _Command) -> Any:
        """Return the answer to a command. Raises what ``execute_command`` raises."""
        if any(type(each) is bytes and len(each) >= LARGE for each in command):
            return await self.execute_command(*command)  # type: ignore[no-untyped-call]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((command, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        elif len(self._waiting) == MOST_TOGETHER:
            self._send()
        answer = await future
        if answer is _ALONE:
            return await self.execute_command(*command)  # type: ignore[no-untyped-call]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _send(self) -> None:
        """Send what is waiting, unless it was sent already because there was enough."""
        # Those whose requests were cancelled need not be sent.
        together = [each for each in self._waiting if not each[1].done()]
        self._waiting = []
        if len(together) == 1:
            together[0][1].set_result(_ALONE)
        elif together:
            # In a task of its own, which no request cancels.
            task = asyncio.get_running_loop().create_task(self._execute(together))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _execute(self, together: list[tuple[_Command, asyncio.Future[Any]]]) -> None:
        """Send commands, and give each request its answer, or the error that it raises."""
        pipeline = filled(self.pipeline(transaction=False), [command for command, _ in together])
        answers: list[Any]
        try:
            answers = await pipeline.execute(raise_on_error=False)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the requests decide
            answers = [_copy_of(error) for _ in together]
        for (_, future), answer in zip(together, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _copy_of(error: BaseException) -> BaseException:
    """Return an exception for one request, which gets a traceback and a cause of its own."""
    try:
        return copy(error)
    except TypeError:  # Its arguments are not those of its class.
        return InvalidResponse(f"{type(error).__name__} in the client")
