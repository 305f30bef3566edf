"""A browser's part of the protocol: keys, and proofs signed with them."""

from __future__ import annotations

import json
import re
from http.cookies import SimpleCookie
from typing import Any

from asgiref.sync import async_to_sync
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from django.test import AsyncClient, Client

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


class BoundBrowser:
    """A browser that binds its sessions, in a test client of Django, over HTTPS.

    It asks sync views, or those under ``async/``. It does not refresh by itself.
    """

    def __init__(self, *, is_async: bool = False) -> None:
        self.client: Any = AsyncClient() if is_async else Client()
        self.is_async = is_async
        self.device = EllipticDevice()
        self.binding: str | None = None
        self.challenge: str | None = None
        """The challenge that the last response has brought in advance."""

    @property
    def cookies(self) -> SimpleCookie:
        cookies: SimpleCookie = self.client.cookies
        return cookies

    def request(self, method: str, path: str, *, secure: bool = True, **headers: str) -> Any:
        ask: Any = getattr(self.client, method)
        ask = async_to_sync(ask) if self.is_async else ask
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(path, headers=named, secure=secure)

    def ask(self, route: str, method: str = "get", **options: Any) -> Any:
        prefix = "async/" if self.is_async else ""
        return self.request(method, f"/{prefix}{route}/", **options)

    def user(self) -> str:
        """Return the name of the user who is logged in, empty if nobody is."""
        response = self.ask("who")
        assert response.status_code == 200
        return str(response.content.decode())

    def log_in(self, username: str = "ada") -> Any:
        """Log in and bind the session if the site asks for it; return the response to the login."""
        response = self.ask(f"login/{username}")
        if asked := response.headers.get("Secure-Session-Registration"):
            self.register(asked)
        return response

    def register(self, asked: str) -> Any:
        """Answer a request to bind the session."""
        found = re.fullmatch(r'\(ES256 RS256\);path="([^"]+)";challenge="([^"]+)"', asked)
        assert found is not None
        proof = f'"{self.device.proof(found[2])}"'
        response = self.request("post", found[1], Secure_Session_Response=proof)
        if response.status_code == 200:
            self._learn(response)
        return response

    def refresh(self, challenge: str | None = None) -> Any:
        """Get another bound cookie, as a browser does; return the last response.

        Without a challenge, the browser answers the one that came in advance.
        """
        for known in (challenge or self.challenge, None):
            response = self.send_proof(known)
            if response.status_code != 403:
                break
            self.challenge = challenge_of(response)
        if response.status_code == 403:
            response = self.send_proof(self.challenge)
        if response.status_code == 200:
            self._learn(response)
        return response

    def send_proof(self, challenge: str | None, binding: str | None = None) -> Any:
        """Ask for another bound cookie, with a proof if there is a challenge."""
        headers = {"Sec_Secure_Session_Id": f'"{binding or self.binding}"'}
        if challenge is not None:
            proof = self.device.proof(challenge, has_key=False)
            headers["Secure_Session_Response"] = f'"{proof}"'
        return self.ask("device/refresh", "post", **headers)

    def _learn(self, response: Any) -> None:
        content = response.json()
        self.binding = content["session_identifier"] if content.get("continue", True) else None
        self.challenge = challenge_of(response)

    def copied(self, *names: str) -> BoundBrowser:
        """Return another browser with the same cookies, or with those of these names."""
        thief = BoundBrowser(is_async=self.is_async)
        for name, cookie in self.cookies.items():
            if not names or name in names:
                thief.cookies[name] = cookie.value
        return thief


def challenge_of(response: Any) -> str | None:
    """Return the challenge that a response brings."""
    found = re.match(r'"([^"]+)";id="[^"]+"$', response.headers.get("Secure-Session-Challenge", ""))
    return found[1] if found else None
