"""Proofs: tokens with which a browser shows that it has the key of a device (RFC 7515, compact)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from .device_keys import DeviceKey, Jwk, decode_base64url, key_of_jwk
from .headers import InvalidProof, read_item

T = TypeVar("T")

_TYPE: Final = "dbsc+jwt"
_PARTS: Final = 3


class _Header(msgspec.Struct):
    alg: str
    typ: str
    jwk: Jwk | None = None
    crit: Any = None


class _Claims(msgspec.Struct):
    jti: str


class _Token(NamedTuple):
    header: _Header
    claims: _Claims
    signed: bytes
    signature: bytes


class Registration(NamedTuple):
    """What a browser has sent to bind a session: its new key, and the challenge that it answers."""

    key: DeviceKey
    challenge: str


def read_registration(response: str) -> Registration:
    """Read ``Secure-Session-Response`` of a registration, which brings the key that signs it.

    The challenge is not checked here. Raises `InvalidProof`.
    """
    token = _read(response)
    if token.header.jwk is None:
        raise InvalidProof("registration has no key")
    key = key_of_jwk(token.header.jwk)
    _verify(token, key)
    return Registration(key, token.claims.jti)


def read_refresh(response: str, key: DeviceKey) -> str:
    """Return the challenge that ``Secure-Session-Response`` of a refresh answers.

    It must be signed with the key of the session: one that it brings itself does not count. The
    challenge is not checked here. Raises `InvalidProof`.
    """
    token = _read(response)
    _verify(token, key)
    return token.claims.jti


def _read(response: str) -> _Token:
    text = read_item(response)
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise InvalidProof("proof does not have three parts")
    header = _decode(parts[0], _Header)
    if header.typ != _TYPE:
        raise InvalidProof("proof is a token of another type")
    if header.crit is not None:
        raise InvalidProof("proof asks for an extension")  # RFC 7515, 4.1.11
    signed = text.rpartition(".")[0].encode()
    return _Token(header, _decode(parts[1], _Claims), signed, decode_base64url(parts[2]))


def _decode(part: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(decode_base64url(part), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidProof("proof is not what the protocol says") from None


def _verify(token: _Token, key: DeviceKey) -> None:
    # The key says which algorithm, not the token (RFC 8725, 3.1).
    if token.header.alg != key.algorithm:
        raise InvalidProof("proof has another algorithm than its key")
    if not key.verifies(token.signature, token.signed):
        raise InvalidProof("proof was not signed with the key of the device")
