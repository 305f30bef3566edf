"""Three-way merge of two requests that changed one session: neither loses its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

MergeFunction = Callable[[Any, Any, Any], Any]
"""Called with one key's values (base, mine, theirs), `MISSING` where there is none."""


class _Missing:
    """The value of a key that is not there, as a merge function gets and may return it."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = _Missing()

AUTHENTICATED_AT: Final = "_authenticated_at"
"""The key of a session's data that tells when its user last signed in, in milliseconds."""
AUTH_KEYS: Final = frozenset(
    {"_auth_user_id", "_auth_user_backend", "_auth_user_hash", AUTHENTICATED_AT}
)
"""Who is logged in, and since when: one fact in four keys, so a mixture of two logins must not come
about."""


def same(a: object, b: object) -> bool:
    """Whether two values are the same to a session: equal in value and type, at any depth.

    The order of dicts and sets does not count; ``1``, ``1.0`` and ``True`` are three values.
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return _typed(a) == _typed(b) and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset) and isinstance(b, set | frozenset):
        return _typed(a) == _typed(b)
    return bool(a == b)


def _typed(items: Any) -> set[tuple[type, Any]]:
    return {(type(item), item) for item in items}


def merge(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    functions: Mapping[str, MergeFunction] | None = None,
) -> dict[Any, Any]:
    """My changes and deletions since ``base``, laid over ``theirs``.

    A key that both sides changed takes the value of the later save, which is mine, unless
    ``functions`` has a merge function for it. The auth keys count as one key.
    """
    merged = dict(theirs)
    changed = {key: None for key in {**base, **mine} if not _unchanged(key, base, mine)}
    if not AUTH_KEYS.isdisjoint(changed):
        changed |= dict.fromkeys(AUTH_KEYS)
    for key in changed:
        value = mine.get(key, MISSING)
        if functions and key in functions and not _unchanged(key, base, theirs):
            value = functions[key](base.get(key, MISSING), value, theirs.get(key, MISSING))
        if value is MISSING:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def changes(
    base: Mapping[Any, Any], mine: Mapping[Any, Any]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each key that differs, and what to do to ``base`` for it, as data that a serializer keeps."""
    for key in {**base, **mine}:
        if not _unchanged(key, base, mine):
            yield key, {"set": {key: mine[key]}} if key in mine else {"deleted": [key]}


def apply(change: Mapping[str, Any], data: dict[Any, Any]) -> None:
    """Do to ``data`` what `changes` says."""
    data.update(change.get("set", {}))
    for key in change.get("deleted", ()):
        data.pop(key, None)


def _unchanged(key: Any, base: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    return same(base.get(key, MISSING), other.get(key, MISSING))
