"""Ending several sessions one after the other, for storages that cannot end them in one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from ..core.flow import Call, Flow
from ..exceptions import StorageUnavailable


def end_without_key(storage: Any, session_id: str) -> Flow[bool]:
    """End a session without its key, see `Storage.end`."""
    was_live: bool = yield Call(storage, "end", (session_id, None))
    return was_live


def end_one_by_one(
    session_ids: Sequence[str], end: Callable[[str], Flow[bool]]
) -> Flow[Collection[str]]:
    """End sessions one after the other, see `Storage.end_each`."""
    ended: list[str] = []
    for each in session_ids:
        try:
            was_live = yield from end(each)
        except StorageUnavailable:
            if not ended:
                raise
            break
        if was_live:
            ended.append(each)
    return ended
