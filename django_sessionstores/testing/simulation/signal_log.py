"""The signals about sessions: created, rotated and ended."""

from __future__ import annotations

from typing import Any


class SignalLog:
    """The signals that a world has received."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []
        """The session id and the reason of each ``session_ended``, except for expired sessions."""
        self.early: set[str] = set()
        """The ids of sessions whose end was reported before their beginning.

        Another request ended what a request had stored, while that request was still saving it.
        """
        self.starts: list[str] = []
        """The id of each ``session_created``, and the new id of each ``session_rotated``."""
        self.creations: set[str] = set()
        """The session ids of ``session_created``."""
        self.rotations: dict[str, str] = {}
        """The previous id of each id that a session got by ``session_rotated``."""

    def add(self, name: str, facts: dict[str, Any]) -> None:
        """Note a signal with this name and its arguments."""
        if name == "session_ended" and facts["reason"] != "expired":
            self.ends.append((facts["session_id"], facts["reason"]))
        elif name in {"session_created", "session_rotated"}:
            self.starts.append(facts["session_id"])
            if any(facts["session_id"] == ended for ended, _ in self.ends):
                self.early.add(facts["session_id"])
            if name == "session_created":
                self.creations.add(facts["session_id"])
            else:
                self.rotations[facts["session_id"]] = facts["previous_id"]

    def has_begun(self, session_id: str | None) -> bool:
        """Return whether a session has begun under this id by ``session_created``."""
        return session_id in self.creations

    def known_id(self, session_id: str, known: set[str]) -> str:
        """Return a known id of the session that has this id.

        An id is unknown if no response has sent its key: the request that stored it may have
        failed, or another request may have ended the session.
        """
        while session_id not in known and session_id in self.rotations:
            session_id = self.rotations[session_id]
        return session_id
