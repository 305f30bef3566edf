"""The headers of the protocol: a subset of structured fields (RFC 9651)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MAX_LENGTH: Final = 8192
"""The characters of a header that are looked at at most. A proof with an RSA key of 4,096 bits has
some 1,600."""

REGISTRATION: Final = "Secure-Session-Registration"
"""The header of a response that asks for a new key, see `registration`."""
CHALLENGE: Final = "Secure-Session-Challenge"
"""The header of a response that asks for a proof, see `challenge`."""
PROOF: Final = "Secure-Session-Response"
"""The header of a request that has a proof."""
BINDING_ID: Final = "Sec-Secure-Session-Id"
"""The header of a request for a new bound cookie that has the id of the binding."""
SKIPPED: Final = "Secure-Session-Skipped"
"""The header of a request that the browser has sent without asking for a new bound cookie."""
REASONS_TO_SKIP: Final = ("unreachable", "server_error", "quota_exceeded")
"""The values of that header: the site did not answer, or with an error, or too many requests."""

_STRING: Final = r'"((?:[ !#-\[\]-~]|\\["\\])*)"'
_WORD: Final = r"([A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*)"
_PARAMETERS: Final = re.compile(r" *;.*", re.DOTALL)
_ITEM: Final = re.compile(rf" *(?:{_STRING}|{_WORD})")


class InvalidProof(ValueError):
    """What a browser has sent does not show that it has the key. The message has no part of it."""


def read_item(header: str) -> str:
    """Return the text of a header that is one string or one token. Parameters do not matter.

    Browsers send what is a string in the specification as a token as well. Raises `InvalidProof`.
    """
    if len(header) > MAX_LENGTH:
        raise InvalidProof("header is too long")
    item = _ITEM.match(header)
    if item is None:
        raise InvalidProof("header is neither a string nor a token")
    rest = header[item.end() :].rstrip(" ")
    if rest and not _PARAMETERS.fullmatch(rest):
        raise InvalidProof("header has more than one value")
    quoted, token = item.groups()
    return re.sub(r"\\(.)", r"\1", quoted) if token is None else str(token)


def registration(algorithms: Sequence[str], path: str, challenge: str) -> str:
    """Return ``Secure-Session-Registration``: the request to make a key and to send its proof."""
    names = " ".join(algorithms)
    return f"({names});path={_string(path)};challenge={_string(challenge)}"


def challenge(text: str, binding_id: str) -> str:
    """Return ``Secure-Session-Challenge``: the request to prove that the key is still there."""
    return f"{_string(text)};id={_string(binding_id)}"


def _string(text: str) -> str:
    """Return a string of a structured field. Raises ``ValueError`` for what it cannot hold."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("A structured field cannot hold this text.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
