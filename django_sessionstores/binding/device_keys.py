"""The public keys of devices: how browsers send them, how they are stored, what they verify."""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Protocol

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from .headers import InvalidProof

ALGORITHMS: Final = ("ES256", "RS256")
"""The algorithms that are offered to browsers and accepted from them, the preferred one first."""

_P256_BYTES: Final = 32
_RSA_BITS: Final = range(2048, 4096 + 1)
_RSA_EXPONENT: Final = 65537
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_ID_BYTES: Final = 16


class Jwk(msgspec.Struct, frozen=True):
    """A JSON Web Key (RFC 7517) of one of the two kinds."""

    kty: str
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""


class DeviceKey(Protocol):
    """The public key of a device."""

    algorithm: str
    """The one algorithm that it verifies: a name of RFC 7518."""

    def to_bytes(self) -> bytes:
        """Return the key as it is stored. `key_of_bytes` reads it."""

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """Return whether the signature was made with the private key."""


class EllipticKey:
    """A key on the curve P-256, for ES256 (RFC 7518, 3.4)."""

    algorithm = "ES256"

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def to_bytes(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
        )

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        if len(signature) != 2 * _P256_BYTES:
            return False
        r, s = signature[:_P256_BYTES], signature[_P256_BYTES:]
        der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
        try:
            self._key.verify(der, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class RsaKey:
    """A key for RS256 (RFC 7518, 3.3)."""

    algorithm = "RS256"

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key

    def to_bytes(self) -> bytes:
        return self._key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        try:
            self._key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def key_of_jwk(jwk: Jwk) -> DeviceKey:
    """Return the key that a browser has sent. Raises `InvalidProof`."""
    try:
        if (jwk.kty, jwk.crv) == ("EC", "P-256"):
            x, y = decode_base64url(jwk.x), decode_base64url(jwk.y)
            if len(x) != _P256_BYTES or len(y) != _P256_BYTES:
                raise InvalidProof("key is not a point on P-256")
            # 4: both coordinates follow (SEC 1, 2.3.4). Refused if it is not on the curve.
            point = b"\x04" + x + y
            return EllipticKey(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
        if jwk.kty == "RSA":
            modulus, exponent = (
                int.from_bytes(decode_base64url(each), "big") for each in (jwk.n, jwk.e)
            )
            _check_rsa(modulus, exponent)
            return RsaKey(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidProof("key is not valid") from None
    raise InvalidProof("key is of a kind that is not accepted")


def key_of_bytes(stored: bytes) -> DeviceKey:
    """Return a key that `DeviceKey.to_bytes` has made. Raises ``ValueError`` for anything else."""
    if stored[:1] in {b"\x02", b"\x03"}:
        return EllipticKey(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), stored))
    # PKCS 1, because load_der_public_key() reads it as well as SubjectPublicKeyInfo.
    key = serialization.load_der_public_key(stored)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("The key of a device is stored in an unknown form.")  # noqa: TRY004
    return RsaKey(key)


def id_of(key: DeviceKey) -> str:
    """Return the id of a binding: a letter and 22 characters that follow from its key."""
    return id_of_bytes(key.to_bytes())


def id_of_bytes(stored: bytes) -> str:
    """Return the id of the binding to a key that `DeviceKey.to_bytes` has made."""
    # Browsers send an id as a token, which must begin with a letter (RFC 9651, 3.3.4).
    return "b" + encode_base64url(hashlib.sha256(stored).digest()[:_ID_BYTES])


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515, 2). Raises `InvalidProof` for anything else."""
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise InvalidProof("text is not base64url")
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise InvalidProof("text is not base64url")  # Two texts must not mean the same.
    return data


def encode_base64url(data: bytes) -> str:
    """Encode as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _check_rsa(modulus: int, exponent: int) -> None:
    """Refuse what is weak, and what takes long to verify. Raises `InvalidProof`."""
    if modulus.bit_length() not in _RSA_BITS or exponent != _RSA_EXPONENT:
        raise InvalidProof("RSA key must have 2,048 to 4,096 bits, and the exponent 65537")
