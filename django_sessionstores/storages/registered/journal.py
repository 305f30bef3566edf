"""The journal of a session's last saves, with which a registry brings older keys up to date."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ...core.records import Change, Changes
from ...exceptions import SessionConflict

MOST_BYTES: Final = 32_768
"""The size of all encrypted changes of a session with the digests of their keys. Each key of the
session is there once at most, with its newest value."""
MOST_SAVES: Final = 512
"""The number of saves of a session, of about 24 bytes each. A session that is saved more often than
this within the window loses the oldest ones, which limits the size of the entry and the cost of one
more save."""


class Save(NamedTuple):
    """One save: the version that it made, its time in milliseconds since the epoch, and the mark of
    its key.

    The mark is empty if all keys of this version are of this save: if it has created the session.
    """

    version: int
    saved_at: int
    mark: bytes


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """The last saves of a session and what they changed. Immutable.

    A key whose save is among ``saves`` can be brought up to date by ``changes``. Any other key
    was made by a save that failed, or was undone, or is older than what is remembered. Changes
    that are forgotten are unknown, and never mistaken for no changes: a request with such a key
    is refused when it saves, as long as others have saved within the window.
    """

    saves: list[Save]
    """The oldest first. What the oldest one changed is not known. Never empty."""
    changes: dict[bytes, tuple[int, bytes]]
    """The version that changed a key of the session last and the change, by the key's digest."""

    @classmethod
    def start(cls, save: Save) -> Journal:
        """Return the journal of a session whose first known save this is."""
        return cls([save], {})

    @property
    def creation(self) -> Save | None:
        """The save that has created the session; ``None`` if it is forgotten."""
        oldest = self.saves[0]
        return None if oldest.mark else oldest

    def add(self, save: Save, changes: Changes, cutoff: int) -> Journal:
        """Return the journal after another save.

        Saves that were superseded before ``cutoff`` are forgotten, and the oldest of more than
        `MOST_SAVES`. Raises `SessionConflict` if the other saves changed more than `MOST_BYTES`:
        if these changes were forgotten too early, they would be lost.
        """
        # Clocks of servers differ; the order of saves does not.
        last = self.saves[-1].saved_at
        saves = [*self.saves, save._replace(saved_at=max(save.saved_at, last))]
        while len(saves) > 1 and saves[1].saved_at <= cutoff:
            del saves[0]
        del saves[:-MOST_SAVES]
        floor = saves[0].version
        kept = {key: change for key, change in self.changes.items() if change[0] > floor}
        kept |= {digest: (save.version, change) for digest, change in changes}
        if sum(len(key) + len(change) for key, (_, change) in kept.items()) > MOST_BYTES:
            raise SessionConflict(
                f"More than {MOST_BYTES // 1024} kB of this session were changed within "
                "SESSIONSTORES['MERGE_WINDOW'] seconds, which its registry cannot remember for "
                "requests with an older cookie. Change less, or keep it elsewhere."
            )
        return Journal(saves, kept)

    def changes_since(self, version: int, mark: bytes) -> tuple[Change, ...] | None:
        """Return the changes since a save, the oldest first; ``None`` if they are not known."""
        if not any(each.version == version and each.mark in {b"", mark} for each in self.saves):
            return None
        newer = [change for change in self.changes.values() if change[0] > version]
        return tuple(Change(*change) for change in sorted(newer))

    def is_quiet(self, cutoff: int) -> bool:
        """Return whether nothing was saved after ``cutoff``."""
        return self.saves[-1].saved_at <= cutoff

    @property
    def newest_save(self) -> Save:
        return self.saves[-1]

    def pack(self) -> bytes:
        return _encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Journal | None:
        """Return the journal that `pack` encoded; ``None`` for any other bytes."""
        try:
            journal = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return journal if journal.saves else None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Journal).decode
