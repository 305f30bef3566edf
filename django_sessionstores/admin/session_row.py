"""A session as the session pages show it."""

from __future__ import annotations

import msgspec

from ..inventory import SHORT_ID, SessionInfo


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session in the words of a page: a row of the list, or the subject of another page.

    The columns of the list are in the template ``list.html``.
    """

    info: SessionInfo
    user: str
    """The username, or the primary key of a deleted user; empty for a visitor."""
    device: str
    place: str
    url: str
    is_own: bool
    """Whether the session is the one of the reader's own request."""

    @property
    def summary(self) -> str:
        """Return the session in a few words, for a log entry."""
        return f"{self.info.id[:SHORT_ID]} ({self.user or '-'}, {self.device})"
