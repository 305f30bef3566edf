"""A browser's part of the protocol: keys, and proofs signed with them."""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from django_sessionstores.binding.device_keys import encode_base64url


def number(value: int, size: int | None = None) -> str:
    return encode_base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def part(value: Any) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":")).encode())


class EllipticDevice:
    """A device with a key for ES256."""

    algorithm = "ES256"

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.private = ec.generate_private_key(curve or ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.private.public_key().public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": number(numbers.x, 32), "y": number(numbers.y, 32)}

    def sign(self, signed: bytes) -> bytes:
        r, s = decode_dss_signature(self.private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def proof(self, challenge: Any, *, has_key: bool = True, **header: Any) -> str:
        """Return what ``Secure-Session-Response`` carries. ``header`` replaces what is usual."""
        first = {"alg": self.algorithm, "typ": "dbsc+jwt"}
        if has_key:
            first["jwk"] = self.jwk  # type: ignore[assignment]
        signed = f"{part({**first, **header})}.{part({'jti': challenge})}"
        return f"{signed}.{encode_base64url(self.sign(signed.encode()))}"


class RsaDevice(EllipticDevice):
    """A device with a key for RS256."""

    algorithm = "RS256"

    def __init__(self, bits: int = 2048, exponent: int = 65537) -> None:
        self.key = rsa.generate_private_key(exponent, bits)

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()
        return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}

    def sign(self, signed: bytes) -> bytes:
        return self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
