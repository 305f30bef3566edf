"""The filters of a list of sessions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from ..core.client import is_in_network
from ..core.lifetime import utc_datetime
from ..core.records import Record, is_beginning_of_id
from .arguments import check_type, user_id_or_any
from .session_info import SessionInfo, session_info

_OPTIONAL: Final = {"logged_in": bool, "expired": bool, "idle_since": datetime, "ip": str}
"""The types of the filters that may be ``None``."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions a list has, see `Inventory.list`; all filters must match.

    Raises ``TypeError`` or ``ValueError`` if a filter is not valid.
    """

    user: Any = None
    logged_in: bool | None = None
    expired: bool | None = False
    idle_since: datetime | None = None
    ip: str | None = None
    id_prefix: str = ""
    where: Callable[[SessionInfo], bool] | None = None

    def __post_init__(self) -> None:
        user_id_or_any(self.user)
        for name, kind in _OPTIONAL.items():
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), kind)
        check_type("id_prefix", self.id_prefix, str)
        if self.where is not None and not callable(self.where):
            raise TypeError(f"where is {self.where!r}; it must be a function.")
        if self.idle_since is not None and self.idle_since.utcoffset() is None:
            raise ValueError("idle_since has no time zone; it must be aware.")
        if not is_beginning_of_id(self.id_prefix):
            raise ValueError(
                "id_prefix is not the beginning of a session id, which has characters of 0-9 and "
                "a-f."
            )

    @property
    def user_id(self) -> str | None:
        """Return the primary key of the user as text; ``None`` for any user."""
        return user_id_or_any(self.user)

    def match(self, record: Record, moment: int) -> bool:
        """Return whether a record matches all filters at a moment, in milliseconds."""
        return (
            self.user_id in {None, record.user_id}
            and self.logged_in in {None, record.user_id is not None}
            and self.expired in {None, record.expires <= moment}
            and self._matches_ip(record.ip)
            and record.id.startswith(self.id_prefix)
            and (self.idle_since is None or utc_datetime(record.last_activity) <= self.idle_since)
            and (self.where is None or self.where(session_info(record, moment)))
        )

    def _matches_ip(self, ip: str) -> bool:
        if self.ip is None or self.ip == ip:
            return True
        return "/" in self.ip and is_in_network(ip, self.ip)
