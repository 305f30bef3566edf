"""Proofs of a device's key: what browsers send is read, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from django_sessionstores.binding.device_keys import (
    decode_base64url,
    encode_base64url,
    id_of,
    key_of_bytes,
)
from django_sessionstores.binding.headers import InvalidProof, challenge, read_item, registration
from django_sessionstores.binding.proofs import read_refresh, read_registration
from tests.binding.browsers import EllipticDevice, RsaDevice, number, part

ELLIPTIC, RSA = EllipticDevice(), RsaDevice()
DEVICES = [pytest.param(ELLIPTIC, id="ES256"), pytest.param(RSA, id="RS256")]
FUZZED = 10_000
SHORT = 10
NOT_UTF8 = encode_base64url(b'{"alg":"\xff"}')
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256's base point."""

# Captured from Chromium with software keys: the header and claims of a registration.
CHROMIUM = {"alg": "ES256", "typ": "dbsc+jwt"}


def of_parts(header: Any, claims: Any, signature: bytes = b"") -> str:
    return f"{part(header)}.{part(claims)}.{encode_base64url(signature)}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("quoted", [False, True], ids=["token", "string"])
def test_a_proof_is_read(device: EllipticDevice, quoted: bool) -> None:
    def sent(text: str) -> str:
        return f'"{text}"' if quoted else text

    key, answered = read_registration(sent(device.proof("first")))
    assert answered == "first"
    stored = key.to_bytes()
    assert len(stored) < 550
    again = key_of_bytes(stored)
    assert (again.algorithm, id_of(again)) == (device.algorithm, id_of(key))
    assert read_refresh(sent(device.proof("second", has_key=False)), again) == "second"


def test_the_bytes_of_an_elliptic_key_are_few() -> None:
    key = read_registration(ELLIPTIC.proof("first")).key
    assert len(key.to_bytes()) == 33
    assert len(id_of(key)) == 23


@pytest.mark.parametrize("device", DEVICES)
def test_a_refresh_needs_the_key_of_the_session(device: EllipticDevice) -> None:
    """Also if the proof brings the key that it was signed with."""
    key = read_registration(device.proof("first")).key
    for other in (EllipticDevice(), RsaDevice()):
        for has_key in (False, True):
            with pytest.raises(InvalidProof):
                read_refresh(other.proof("second", has_key=has_key), key)


def _signed_with_the_public_key() -> str:
    """Return a token under HMAC whose secret is the public key, which everybody has."""
    signed = f"{part({**CHROMIUM, 'alg': 'HS256', 'jwk': ELLIPTIC.jwk})}.{part({'jti': 'c'})}"
    secret = read_registration(ELLIPTIC.proof("c")).key.to_bytes()
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encode_base64url(signature)}"


def _altered(change: Callable[[str, str, str], tuple[str, str, str]]) -> str:
    head, claims, signature = ELLIPTIC.proof("c").split(".")
    return ".".join(change(head, claims, signature))


def _with_signature(change: Callable[[bytes], bytes]) -> str:
    return _altered(
        lambda head, claims, signature: (
            head,
            claims,
            encode_base64url(change(decode_base64url(signature))),
        )
    )


def _key(**changed: Any) -> str:
    return ELLIPTIC.proof("c", jwk={**ELLIPTIC.jwk, **changed})


def _rsa_key(**changed: Any) -> str:
    return RSA.proof("c", jwk={**RSA.jwk, **changed})


def _on_another_curve() -> str:
    device = EllipticDevice(ec.SECP256K1())
    return device.proof("c")


def _divided_elsewhere() -> str:
    both = decode_base64url(ELLIPTIC.jwk["x"]) + decode_base64url(ELLIPTIC.jwk["y"])
    return _key(x=encode_base64url(both[:31]), y=encode_base64url(both[31:]))


ATTACKS: dict[str, Callable[[], str]] = {
    "none": lambda: of_parts({**CHROMIUM, "alg": "none", "jwk": ELLIPTIC.jwk}, {"jti": "c"}),
    "None": lambda: ELLIPTIC.proof("c", alg="None"),
    "no algorithm": lambda: ELLIPTIC.proof("c", alg=None),
    "HMAC with the public key": _signed_with_the_public_key,
    "algorithm of the other kind": lambda: ELLIPTIC.proof("c", alg="RS256"),
    "algorithm of the other kind, RSA": lambda: RSA.proof("c", alg="ES256"),
    "ES384": lambda: ELLIPTIC.proof("c", alg="ES384"),
    "PS256": lambda: RSA.proof("c", alg="PS256"),
    "another type": lambda: ELLIPTIC.proof("c", typ="JWT"),
    "extension": lambda: ELLIPTIC.proof("c", crit=["b64"], b64=False),
    "no key": lambda: ELLIPTIC.proof("c", has_key=False),
    "key is null": lambda: ELLIPTIC.proof("c", jwk=None),
    "key is a list": lambda: ELLIPTIC.proof("c", jwk=[ELLIPTIC.jwk]),
    "key is symmetric": lambda: ELLIPTIC.proof("c", jwk={"kty": "oct", "k": "c2VjcmV0"}),
    "key has another curve": lambda: _key(crv="P-384"),
    "key is of another curve": _on_another_curve,
    "point is not on the curve": lambda: _key(y=number(5, 32)),
    "point at infinity": lambda: _key(x=number(0, 32), y=number(0, 32)),
    "coordinate is short": lambda: _key(x=ELLIPTIC.jwk["x"][:-4]),
    "coordinates are divided elsewhere": _divided_elsewhere,
    "coordinate is long": lambda: _key(x="AA" * 4096),
    "coordinate has padding": lambda: _key(x=ELLIPTIC.jwk["x"] + "="),
    "coordinate has other letters": lambda: _key(x="\u00e9" * 43),
    "coordinate is a number": lambda: _key(x=5),
    "small exponent": lambda: RsaDevice(exponent=3).proof("c"),
    "even modulus": lambda: _rsa_key(n=number(1 << 2047)),
    "small modulus": lambda: RsaDevice(1024).proof("c"),
    "large modulus": lambda: _rsa_key(n=number((1 << 4200) + 1)),
    "modulus is empty": lambda: _rsa_key(n=""),
    "other claims": lambda: _altered(lambda head, _claims, sign: (head, part({"jti": "d"}), sign)),
    "claims without challenge": lambda: _altered(lambda head, _claims, sign: (head, "e30", sign)),
    "challenge is a number": lambda: ELLIPTIC.proof(5),
    "challenge is null": lambda: ELLIPTIC.proof(None),
    "no signature": lambda: _with_signature(lambda _signature: b""),
    "signature of zeros": lambda: _with_signature(lambda _signature: bytes(64)),
    "signature of the order": lambda: _with_signature(lambda _sign: ORDER.to_bytes(32, "big") * 2),
    "signature as DER": lambda: _with_signature(
        lambda sign: encode_dss_signature(
            *(int.from_bytes(each, "big") for each in (sign[:32], sign[32:]))
        )
    ),
    "signature is longer": lambda: _with_signature(lambda signature: signature + b"\0"),
    "signature with a zero between": lambda: _with_signature(
        lambda sign: sign[:32] + b"\0" + sign[32:]
    ),
    "four parts": lambda: ELLIPTIC.proof("c") + ".AA",
    "two parts": lambda: ELLIPTIC.proof("c").rpartition(".")[0],
    "five parts": lambda: "a.b.c.d.e",
    "parts are empty": lambda: "..",
    "deep": lambda: of_parts({**CHROMIUM, "jwk": {}}, {"jti": "c"}).replace(
        part({"jti": "c"}), encode_base64url(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")
    ),
    "not UTF-8": lambda: f"{NOT_UTF8}.{part({'jti': 'c'})}.AA",
    "empty": lambda: "",
    "two strings": lambda: f'"{ELLIPTIC.proof("c")}", "{ELLIPTIC.proof("c")}"',
    "two tokens": lambda: f"{ELLIPTIC.proof('c')},{ELLIPTIC.proof('c')}",
    "string without an end": lambda: f'"{ELLIPTIC.proof("c")}',
    "bytes of a structured field": lambda: f":{ELLIPTIC.proof('c')}:",
    "too long": lambda: ELLIPTIC.proof("c", more="x" * 9000),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_a_proof_is_refused(attack: str) -> None:
    response = ATTACKS[attack]()
    with pytest.raises(InvalidProof) as refused:
        read_registration(response)
    key = read_registration(ELLIPTIC.proof("c")).key
    # A refresh does not look at a key that the proof brings.
    if not attack.startswith(("no key", "key is null", "key is sym", "key has", "point", "coord")):
        with pytest.raises(InvalidProof):
            read_refresh(response, key)
    # The message goes to a log.
    parts = [each for each in response.split(".") if len(each) > SHORT]
    assert not any(each in str(refused.value) for each in parts)


def test_nothing_that_was_altered_at_random_is_accepted() -> None:
    """No other error than `InvalidProof` comes out either, because it would be a 500."""
    draw = random.Random(20261202)
    key = read_registration(ELLIPTIC.proof("c")).key
    good = [ELLIPTIC.proof("c"), f'"{ELLIPTIC.proof("c")}"', RSA.proof("c")]
    alphabet = [*map(chr, range(32, 127)), "\0", "\u00e9", "\ud83d", '"', ".", "=", ";"]
    accepted = 0
    for _ in range(FUZZED):
        text = list(draw.choice(good))
        for _ in range(draw.choice((1, 1, 2, 5))):
            place = draw.randrange(len(text))
            replaced = draw.choice(([], [draw.choice(alphabet)], text[place:] + text[:place]))
            text[place : place + draw.choice((0, 1, 1, 30))] = replaced
        header = "".join(text)
        for read in (read_registration, lambda each: read_refresh(each, key)):
            try:
                read(header)
            except InvalidProof:
                continue
            # What is left is what it was, with a parameter or spaces that do not count.
            accepted += read_item(header) not in map(read_item, good)
    assert not accepted


# Headers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("sid1", "sid1"),
        ('"sid1"', "sid1"),
        (' "a b" ', "a b"),
        (r'"a\"b\\c"', r'a"b\c'),
        ("sid1;a=1", "sid1"),
        ('"sid1"; a="x,y"', "sid1"),
        ('""', ""),
    ],
)
def test_an_item_is_read(header: str, text: str) -> None:
    assert read_item(header) == text


@pytest.mark.parametrize(
    "header",
    ["", " ", "1", "?1", "(a b)", "a b", "a, b", '"a" "b"', r'"\a"', '"\n"', '"\u00e9"', "\u00e9"],
)
def test_what_is_no_item_is_refused(header: str) -> None:
    with pytest.raises(InvalidProof):
        read_item(header)


def test_headers_of_responses() -> None:
    assert registration(("ES256", "RS256"), "/dbsc/start", "c") == (
        '(ES256 RS256);path="/dbsc/start";challenge="c"'
    )
    assert challenge("no\\n", 'a"b') == r'"no\\n";id="a\"b"'
    with pytest.raises(ValueError, match="structured field"):
        challenge("a\r\nSet-Cookie: b", "id")
