"""What the socket of a connection tells without a question to the server.

What follows from it is tested on the servers, with connections that they have closed.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

import pytest

from django_sessionstores.storages.sql import liveness

WAYS = [liveness._select, *([liveness._poll] if hasattr(select, "poll") else [])]


@pytest.mark.parametrize("way", WAYS)
def test_a_socket_tells_that_it_has_something_to_read(
    way: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one way for each operating system."""
    monkeypatch.setattr(liveness, "_ask", way)
    client, server = socket.socketpair()
    number = client.fileno()
    with client, server:
        assert not liveness._has_news(number)
        server.send(b"terminating connection")
        assert liveness._has_news(number)
        client.recv(100)
        assert not liveness._has_news(number)
        server.close()
        assert liveness._has_news(number)
    # The client has closed it itself, and does not know yet.
    assert liveness._has_news(number)
    assert not liveness._has_news(-1)
