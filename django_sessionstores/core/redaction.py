"""The data of a session as a tree for display: without secrets, and of limited size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any, Final

import msgspec

from .phrases import escape_invisible

# Parts of the names of secrets, at any place in the name.
_PARTS: Final = (
    "token|secret|passw|passphrase|passcode|pwd|credential|signature|csrf|xsrf|cookie|bearer|nonce"
    "|verifier|apikey|privatekey|sessionid|sessionkey|authorization|onetime"
)
# Words in the names of secrets. As parts of other words they are harmless, like "key" in "monkey".
_WORDS: Final = "key|keys|hash|salt|pin|pass|otp|totp|mfa|jwt|sid|cvv|cvc|pan|iban|ssn"
_CODES: Final = "(?:verification|auth|login|reset|sms|confirmation|recovery|backup|security)code"
_SECRET: Final = re.compile(f"{_PARTS}|{_CODES}")
_SECRET_WORD: Final = re.compile(rf"(?:^|_)(?:{_WORDS})(?:_|$)")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_OTHER: Final = re.compile(r"[\W_]+")
_ASSIGNED: Final = re.compile(
    r"""([\w.\-]+)(["']?\s*[=:]\s*["']?)(?:(?:bearer|basic)\s+)?[^&;,\s"'}]+""", re.IGNORECASE
)
"""A named value inside a text: in the query of a URL, in a header, in broken JSON."""

# The limits of a tree: levels, children of a node, nodes, and characters of texts and of JSON.
_DEPTH: Final = 12
_CHILDREN: Final = 100
_NODES: Final = 2000
_TEXT: Final = 500
_JSON_TEXT: Final = 100_000


class Node(msgspec.Struct, kw_only=True):
    """A named value of a session, as a page shows it."""

    name: str
    kind: str
    """The name of the value's type."""
    text: str = ""
    """The value, cut to a limited length; empty for a container."""
    is_secret: bool = False
    """Whether the value is left out because of its name."""
    children: list[Node] = []
    left_out: int = 0
    """How many children are not in ``children``."""


class Redactor:
    """Builds the tree of a session's data and leaves out secrets, which it knows by their names.

    ``names`` are parts of the names of secrets, in addition to the usual ones. With ``reveals``,
    secrets are not left out.
    """

    def __init__(self, names: Iterable[str] = (), *, reveals: bool = False) -> None:
        self._names = [_join_words(name) for name in names]
        self._reveals = reveals
        self._left = _NODES

    def is_secret(self, name: object) -> bool:
        """Return whether a value with this name must not be shown."""
        if not isinstance(name, str):
            return False
        words = _OTHER.sub("_", _CAMEL.sub("_", name)).lower()
        joined = words.replace("_", "")
        return bool(
            _SECRET_WORD.search(words)
            or _SECRET.search(joined)
            or any(part in joined for part in self._names)
        )

    def tree(self, data: Mapping[Any, Any]) -> list[Node]:
        """Return a node for each value, sorted by name."""
        self._left = _NODES
        return self._members(data, depth=0)[0]

    def _node(self, name: Any, value: Any, depth: int) -> Node:
        self._left -= 1
        label = name if isinstance(name, str) else repr(name)
        node = Node(name=self._text(label), kind=type(value).__name__)
        if self.is_secret(name) and not self._reveals:
            node.is_secret = True
        elif isinstance(value, bytes | bytearray | memoryview):
            # People cannot read bytes, and they are often keys.
            node.text = f"{len(value)}"
        elif isinstance(value, str) and (parsed := _json(value)) is not None:
            node.kind = "JSON"
            node.children, node.left_out = self._members(parsed, depth + 1)
        elif isinstance(value, Mapping | Sequence | Set) and not isinstance(value, str):
            node.children, node.left_out = self._members(value, depth + 1)
        else:
            node.text = self._text(value if isinstance(value, str) else repr(value))
        return node

    def _members(self, value: Any, depth: int) -> tuple[list[Node], int]:
        if depth > _DEPTH:
            return [], len(value)
        nodes: list[Node] = []
        for name, member in islice(_named_members(value), _CHILDREN):
            if self._left <= 0:
                break
            nodes.append(self._node(name, member, depth))
        return nodes, len(value) - len(nodes)

    def _text(self, text: str) -> str:
        def redact(found: re.Match[str]) -> str:
            return f"{found[1]}{found[2]}…" if self.is_secret(found[1]) else found[0]

        if not self._reveals:
            text = _ASSIGNED.sub(redact, text[: 2 * _TEXT])
        text = text if len(text) <= _TEXT else f"{text[:_TEXT]}…"
        return escape_invisible(text)


def _join_words(name: str) -> str:
    return _OTHER.sub("", name).lower()


def _named_members(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return iter(sorted(value.items(), key=lambda item: str(item[0])))
    members = sorted(value, key=repr) if isinstance(value, Set) else value
    return iter(enumerate(members))


def _json(text: str) -> Any:
    """Return the JSON object or array in a text; ``None`` for any other text."""
    if text[:1] not in {"{", "["} or len(text) > _JSON_TEXT:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found or None
