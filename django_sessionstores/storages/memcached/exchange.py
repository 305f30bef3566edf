"""Several commands at once: they are sent to all nodes before any answer is waited for."""

from __future__ import annotations

import socket
from typing import Any, Final

from .client import FAILURES, MemcacheError, MemcacheUnexpectedCloseError

STORED: Final = b"STORED"
_UNDERSTOOD: Final = frozenset({STORED, b"NOT_STORED", b"EXISTS", b"NOT_FOUND"})
"""The answers to ``add`` and ``cas``, except for errors."""

Answer = bytes | Exception | None
"""The line with which a node answers a command, or the error; ``None`` if nothing was sent."""


class Exchange:
    """Commands that store, for one node over one connection, and the answer to each."""

    def __init__(self, client: Any, commands: list[bytes]) -> None:
        self._client = client
        self._commands = commands
        self._is_due = False
        self.answers: list[Answer] = [None] * len(commands)

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._client.sock is not None

    def send(self) -> bool:
        """Send the commands, and return whether they could be sent."""
        try:
            self._client.sock.sendall(b"".join(self._commands))
        except FAILURES as error:
            self._fail(error)
        else:
            self._is_due = True
        return self._is_due

    def receive(self) -> None:
        """Wait for the answers, if the commands were sent."""
        if not self._is_due:
            return
        try:
            lines = read_lines(self._client.sock, len(self._commands))
        except FAILURES as error:
            self._fail(error)
            return
        self.answers = [*lines]
        if not _UNDERSTOOD.issuperset(lines):
            # More may follow, which the next command would take for its answer.
            self._client.close()

    def _fail(self, error: Exception) -> None:
        self._client.close()
        self.answers = [error] * len(self._commands)


def read_lines(connection: socket.socket, count: int) -> list[bytes]:
    """Return the answers of a node to ``count`` commands that store: a line each.

    Raises an error of the client or of the socket.
    """
    reply = b""
    while reply.count(b"\r\n") < count:
        piece = connection.recv(4096)
        if not piece:
            raise MemcacheUnexpectedCloseError
        reply += piece
    *lines, rest = reply.split(b"\r\n", count)
    if rest:
        raise MemcacheError(f"{rest!r} after the last answer")
    return lines
