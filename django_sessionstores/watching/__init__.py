"""Watching: what is open under a session is closed when the session ends.

`watching` is for code that holds a connection open. `asgi` closes WebSockets and streams of an ASGI
application, and `consumers` those of a consumer of Channels. For each engine, an event loop has one
`watcher`, which asks the store for all watched sessions at once.
"""

from .asgi import SESSION_ENDED, TRY_AGAIN_LATER, WatchMiddleware
from .consumers import WatchedConsumer
from .watch import UNKNOWN, Watch, watching

__all__ = [
    "SESSION_ENDED",
    "TRY_AGAIN_LATER",
    "UNKNOWN",
    "Watch",
    "WatchMiddleware",
    "WatchedConsumer",
    "watching",
]
