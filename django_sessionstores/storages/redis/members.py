"""What a write does to the index of sessions in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from ...core.records import Record, State
from ..base import Storage
from .keys import User, member_of, sessions_key, tag_of, users_key

_DAY: Final = 24 * 60 * 60 * 1000
_MEMBER_AGE: Final = 60 * 60 * 1000
"""How many milliseconds after its expiry a member of the index is litter, by any clock."""


class Move(NamedTuple):
    """A member that a write adds to a directory, or removes from it."""

    directory: bytes
    member: bytes
    expires: int | bytes = b""
    """Empty if the member is removed."""
    litter: int | bytes = b""
    """Members that expired before this moment are removed, a few at a time."""


class Moves(NamedTuple):
    """What a write does to the index."""

    of_session: Sequence[Move] = ()
    """In the index of sessions, with the tags of the records that are written."""
    of_user: Sequence[Move] = ()
    """In the index of users, with tags of their own."""
    is_new_to_user: bool = False
    """Whether the user did not have this session."""

    @property
    def announcements(self) -> list[Move]:
        """What must be in the index of users so that the session is found there."""
        return [each for each in self.of_user if each.expires]


def keys_of(moves: Iterable[Move]) -> tuple[bytes, ...]:
    """Return the keys of a script for moves."""
    return tuple(each.directory for each in moves)


def arguments_of(moves: Iterable[Move]) -> tuple[Any, ...]:
    """Return the arguments of a script for moves, which are its last ones."""
    return tuple(chain.from_iterable(each[1:] for each in moves))


def day_of(moment: int) -> int:
    """Return the number of the day of a moment."""
    return moment // _DAY


def site_of(storage: Storage, record: Record) -> int:
    """Return the mark of the site in whose index a record is."""
    return record.site or storage.sites()[0]


def litter_at(now: int) -> int:
    """Return the moment before which members that have expired are litter at ``now``."""
    return max(1, now - _MEMBER_AGE)


class Listing(NamedTuple):
    """A live session in the index of users."""

    session_id: str
    user_id: str
    site: int

    def place(self, prefix: bytes) -> tuple[bytes, bytes]:
        """Return the directory and the member."""
        user = User.of(self.user_id)
        member = user.prefix + bytes.fromhex(self.session_id)
        return users_key(prefix, self.site, user.tag), member


def last_day(expires: int) -> int:
    """Return the score of a session in the index of users: the day behind that of its expiry.

    It is not the moment of the expiry, which moves with each use of the session, and would have to
    be moved there by a command of its own.
    """
    return day_of(expires) + 1


def moves_of(
    storage: Storage, prefix: bytes, base: Record | None, record: Record, now: int
) -> Moves:
    """Return what the index has to do when ``record`` replaces ``base``."""
    litter = litter_at(now)
    site = site_of(storage, record)
    base_site = site_of(storage, base) if base else site
    was_live, is_live = base is not None and base.state is State.LIVE, record.state is State.LIVE
    of_session, of_user = list[Move](), list[Move]()
    if is_live:
        directory = sessions_key(prefix, site, tag_of(record.id))
        of_session.append(Move(directory, member_of(record.id), record.expires, litter))
    if base and not (is_live and (base.id, base_site) == (record.id, site)):
        directory = sessions_key(prefix, base_site, tag_of(base.id))
        of_session.append(Move(directory, member_of(base.id)))
    before = after = None
    if base and was_live and base.user_id is not None:
        before = Listing(base.id, base.user_id, base_site)
    if is_live and record.user_id is not None:
        after = Listing(record.id, record.user_id, site)
    is_later = base is None or day_of(record.expires) > day_of(base.expires)
    if after and (is_later or before != after):
        scores = last_day(record.expires), day_of(litter)
        of_user.append(Move(*after.place(prefix), *scores))
    if before and before != after:
        of_user.append(Move(*before.place(prefix)))
    return Moves(of_session, of_user, after is not None and before != after)
