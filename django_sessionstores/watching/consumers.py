"""A mixin for the consumers of Channels. It needs nothing of Channels itself."""

from __future__ import annotations

from typing import Any

from .asgi import Receive, Scope, Send, closed_with_session


class WatchedConsumer:
    """A consumer that is closed when its session ends. Name it before the class of Channels.

    It is for consumers under Channels' own middlewares. Those of `django_sessionstores.channels`
    close each WebSocket by themselves, and need no mixin.

    A WebSocket is closed with the code `SESSION_ENDED`. A response of an HTTP consumer that is sent
    in parts is ended.
    """

    counts_as_activity: bool = False
    """Whether each message that the browser sends keeps the session from being idle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Run the consumer as long as its session lives."""
        async with closed_with_session(
            scope, receive, send, counts_as_activity=self.counts_as_activity
        ) as (receive, send):
            return await super().__call__(scope, receive, send)  # type: ignore[misc]
