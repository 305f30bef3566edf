"""The pages and the API on which users see and end their own sessions."""

from .ended import EndedSession, aended_session, ended_session
from .sessions import YourSession, YourSessionList, YourSessionPage, YourSessions

__all__ = [
    "EndedSession",
    "YourSession",
    "YourSessionList",
    "YourSessionPage",
    "YourSessions",
    "aended_session",
    "ended_session",
]
