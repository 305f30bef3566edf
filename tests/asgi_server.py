"""An ASGI server in this process, for real connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from tests.services import HOST, free_port, wait_until

_SECONDS: Final = 10


@contextmanager
def served(app: Any) -> Iterator[int]:
    """Run uvicorn in a thread; yield its port. Open connections are closed at the end."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, "uvicorn serves")
    try:
        yield port
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(_SECONDS)
