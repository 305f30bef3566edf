"""The pages and the API on which users see and end their own sessions."""

from .sessions import YourSession, YourSessionList, YourSessionPage, YourSessions

__all__ = ["YourSession", "YourSessionList", "YourSessionPage", "YourSessions"]
