"""What only this site can have made: challenges for browsers, and the value of the bound cookie.

Both are verified by themselves, without asking a store.
"""

from __future__ import annotations

import hmac
import os
from typing import Final

from ..payloads.codec import KeyRing
from .device_keys import decode_base64url, encode_base64url
from .headers import InvalidProof

CLOCKS: Final = 60_000
"""Milliseconds by which the clocks of two servers may differ."""

_MOMENT_BYTES: Final = 6
_NONCE_BYTES: Final = 8
_CHALLENGE: Final = "challenge"
_COOKIE: Final = "cookie"


def make_challenge(ring: KeyRing, subject: str, now: int) -> str:
    """Return a challenge for a subject: what its answer is for, such as the id of a binding.

    ``now`` is in milliseconds since the epoch.
    """
    return _sign(ring, f"{_CHALLENGE} {subject}", now, os.urandom(_NONCE_BYTES))


def check_challenge(ring: KeyRing, challenge: str, subject: str, now: int, life: int) -> int:
    """Return when a challenge was made, in milliseconds since the epoch.

    A caller that accepts each answer once keeps that moment: what was made earlier, or then, has
    been answered. ``life`` is in milliseconds. Raises `InvalidProof` if the challenge is of another
    subject or site, too old, or from the future.
    """
    made = _verify(ring, f"{_CHALLENGE} {subject}", challenge, _NONCE_BYTES)
    if not now - life <= made <= now + CLOCKS:
        raise InvalidProof("challenge has expired")
    return made


def make_bound_value(ring: KeyRing, binding_id: str, expires: int) -> str:
    """Return the value of the bound cookie, which is valid until ``expires`` (milliseconds)."""
    return _sign(ring, f"{_COOKIE} {binding_id}", expires, b"")


def is_bound_value(ring: KeyRing, value: str, binding_id: str, now: int) -> bool:
    """Return whether the value of a bound cookie is of this binding and has not expired."""
    try:
        return _verify(ring, f"{_COOKIE} {binding_id}", value, 0) > now
    except InvalidProof:
        return False


def _sign(ring: KeyRing, purpose: str, moment: int, nonce: bytes) -> str:
    data = moment.to_bytes(_MOMENT_BYTES, "big") + nonce
    return encode_base64url(data + next(ring.signatures(purpose, data)))


def _verify(ring: KeyRing, purpose: str, text: str, nonce_bytes: int) -> int:
    """Return the moment in what `_sign` has made. Raises `InvalidProof` for anything else."""
    signed = decode_base64url(text)
    size = _MOMENT_BYTES + nonce_bytes
    data, signature = signed[:size], signed[size:]
    if not any(hmac.compare_digest(each, signature) for each in ring.signatures(purpose, data)):
        raise InvalidProof("text was not made by this site for this purpose")
    return int.from_bytes(data[:_MOMENT_BYTES], "big")
