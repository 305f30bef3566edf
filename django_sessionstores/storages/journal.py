"""What a registry remembers of a session's last saves, so that older keys can be brought up."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from ..exceptions import SessionConflict
from ..records import Change, Changes

MOST_BYTES: Final = 32_768
"""Of changes, sealed. Each key of the session is there once at most, with its newest value."""


class Save(NamedTuple):
    """One save: the version that it made, when, and the mark of its key."""

    version: int
    saved_at: int
    mark: bytes


class Journal(msgspec.Struct, frozen=True, array_like=True):
    """The last saves of a session and what they changed, as a value.

    A key whose save is among ``saves`` can be brought up to the newest by ``changes``. Any other
    was made by a save that failed, or was undone, or is older than what is remembered.
    """

    saves: list[Save]
    """The oldest first; of that one, only its successors' changes are known. Never empty."""
    changes: dict[bytes, tuple[int, bytes]]
    """By the digest of a key of the session: the version that changed it last, and the change."""

    @classmethod
    def begun(cls, save: Save) -> Journal:
        """The journal of a session that was just created."""
        return cls([save], {})

    def after(self, save: Save, changes: Changes, cutoff: int) -> Journal:
        """The journal after another save.

        Saves that were superseded before ``cutoff`` are forgotten. Raises `SessionConflict` where
        those after it changed more than `MOST_BYTES`: forgotten too early, they would be lost.
        """
        # Clocks of servers differ; the order of saves does not.
        last = self.saves[-1].saved_at
        saves = [*self.saves, save._replace(saved_at=max(save.saved_at, last))]
        while len(saves) > 1 and saves[1].saved_at <= cutoff:
            del saves[0]
        floor = saves[0].version
        kept = {key: change for key, change in self.changes.items() if change[0] > floor}
        kept |= {digest: (save.version, change) for digest, change in changes}
        if sum(len(change) for _, change in kept.values()) > MOST_BYTES:
            raise SessionConflict(
                f"More than {MOST_BYTES // 1024} kB of this session were changed within "
                "SESSIONSTORES['MERGE_WINDOW'] seconds, which its registry cannot remember for "
                "requests with an older cookie. Change less, or keep it elsewhere."
            )
        return Journal(saves, kept)

    def since(self, version: int, mark: bytes) -> tuple[Change, ...] | None:
        """What has changed since a save, the oldest first; ``None`` if that is not known."""
        if not any((save.version, save.mark) == (version, mark) for save in self.saves):
            return None
        newer = [change for change in self.changes.values() if change[0] > version]
        return tuple(Change(*change) for change in sorted(newer))

    def is_quiet(self, cutoff: int) -> bool:
        """Whether nothing was saved after ``cutoff``."""
        return self.saves[-1].saved_at <= cutoff

    @property
    def newest(self) -> Save:
        return self.saves[-1]

    def pack(self) -> bytes:
        return _encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Journal | None:
        """The journal that `pack` made bytes of; ``None`` for anything else."""
        try:
            journal = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return journal if journal.saves else None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Journal).decode
