"""What somebody sends who wants a bound cookie without the key of the device."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import override_settings

from django_sessionstores.binding import tokens
from django_sessionstores.binding.device_keys import encode_base64url
from django_sessionstores.binding.headers import MAX_LENGTH
from django_sessionstores.conf import key_ring
from django_sessionstores.core.clock import now
from django_sessionstores.devices import binding_views
from django_sessionstores.middleware.device_binding import subject_of_refresh
from django_sessionstores.testing import HOUR, at
from tests.binding.browsers import BoundBrowser, EllipticDevice, RsaDevice, challenge_of, part
from tests.test_device_binding import (
    BOUND,
    COOKIE,
    ENGINES,
    MINUTE,
    REGISTRATION,
    binding_settings,
    stored_binding,
)

pytestmark = [pytest.mark.engines(*ENGINES), pytest.mark.usefixtures("user")]

memory = pytest.mark.engines("memory")


@pytest.fixture(autouse=True)
def _site(engine: Any) -> Iterator[None]:
    _, *others = django_settings.MIDDLEWARE
    middleware = ["django_sessionstores.middleware.SessionMiddleware", *others]
    with (
        override_settings(ROOT_URLCONF="tests.test_device_binding", MIDDLEWARE=middleware),
        binding_settings(DEVICE_BINDING="prefer"),
    ):
        yield


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest) -> BoundBrowser:
    """Return a browser whose session is bound."""
    browser = BoundBrowser(is_async=request.param == "async")
    browser.log_in()
    assert browser.binding
    return browser


@pytest.fixture
def thief(browser: BoundBrowser) -> BoundBrowser:
    """Return a browser with a copy of the session cookie, and a device of its own."""
    thief = browser.copied(COOKIE)
    thief.binding = browser.binding
    return thief


def send(browser: BoundBrowser, response: str, route: str = "refresh", **headers: str) -> Any:
    headers = {"Sec_Secure_Session_Id": f'"{browser.binding}"', **headers}
    return browser.ask(f"device/{route}", "post", Secure_Session_Response=response, **headers)


def assert_refused(response: Any) -> None:
    assert response.status_code == 403
    assert BOUND not in response.cookies
    assert not response.content


# Registration -------------------------------------------------------------------------------------


def path_and_challenge(response: Any) -> tuple[str, str]:
    found = re.search(r'path="([^"]+)";challenge="([^"]+)"', response.headers[REGISTRATION])
    assert found is not None
    return found[1], found[2]


@pytest.fixture
def asked(browser: BoundBrowser) -> tuple[BoundBrowser, str]:
    """Return a browser that was asked to bind its session, and has not, with the challenge."""
    other = BoundBrowser(is_async=browser.is_async)
    _, challenge = path_and_challenge(other.ask("login/ada"))
    return other, challenge


def test_a_second_device_is_not_bound(engine: Any, browser: BoundBrowser) -> None:
    """Not with the challenge that the first one has answered, nor by the proof of the first."""
    other = BoundBrowser(is_async=browser.is_async)
    response = other.ask("login/ada")
    path, challenge = path_and_challenge(response)
    first = other.register(response.headers[REGISTRATION])
    assert first.status_code == 200
    binding = stored_binding(engine, other)
    for device in (EllipticDevice(), other.device):
        again = other.request("post", path, Secure_Session_Response=device.proof(challenge))
        assert_refused(again)
    assert stored_binding(engine, other) == binding


def test_the_challenge_of_another_session(
    engine: Any, asked: tuple[BoundBrowser, str], browser: BoundBrowser
) -> None:
    """Each challenge is for one session, and not for another login of the same user."""
    other, challenge = asked
    third = BoundBrowser(is_async=browser.is_async)
    third.ask("login/ada")
    assert_refused(send(third, third.device.proof(challenge), "start"))
    assert stored_binding(engine, third) is None
    # Nor is that of the same session after a login of another user.
    get_user_model()._default_manager.create(username="bob")
    other.ask("login/bob")
    assert_refused(send(other, other.device.proof(challenge), "start"))


def test_a_visitor_is_not_bound(engine: Any, asked: tuple[BoundBrowser, str]) -> None:
    _, challenge = asked
    for prepare in ("write/x/1", "read"):
        visitor = BoundBrowser()
        visitor.ask(prepare)
        assert_refused(send(visitor, visitor.device.proof(challenge), "start"))


def test_a_late_registration(engine: Any, asked: tuple[BoundBrowser, str]) -> None:
    other, challenge = asked
    with at(now() + HOUR):
        assert_refused(send(other, other.device.proof(challenge), "start"))
        assert other.user() == "ada"


@memory
def test_a_registration_without_https(asked: tuple[BoundBrowser, str]) -> None:
    other, challenge = asked
    proof = other.device.proof(challenge)
    response = other.ask("device/start", "post", secure=False, Secure_Session_Response=proof)
    assert_refused(response)


@memory
@pytest.mark.parametrize("method", ["get", "put", "delete", "options"])
def test_other_methods(asked: tuple[BoundBrowser, str], method: str) -> None:
    other, challenge = asked
    for route in ("start", "refresh"):
        response = other.ask(
            f"device/{route}", method, Secure_Session_Response=other.device.proof(challenge)
        )
        assert response.status_code == 405


@memory
def test_without_the_package_s_middleware(asked: tuple[BoundBrowser, str]) -> None:
    """Nothing would verify the bound cookie, so no session is bound."""
    other, challenge = asked
    other.client = type(other.client)()
    django = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        *django_settings.MIDDLEWARE[1:],
    ]
    with override_settings(MIDDLEWARE=django):
        assert REGISTRATION not in other.ask("login/ada").headers
        assert_refused(send(other, other.device.proof(challenge), "start"))


def test_two_registrations_at_a_time(engine: Any, asked: tuple[BoundBrowser, str]) -> None:
    """The first that is stored counts, and the other one is told."""
    other, challenge = asked
    late = EllipticDevice()
    with during("_check_registration", lambda: send(other, other.device.proof(challenge), "start")):
        assert_refused(send(other, late.proof(challenge), "start"))
    binding = stored_binding(engine, other)
    assert binding is not None
    assert binding.key_bytes != b""
    assert binding.key.verifies(other.device.sign(b"text"), b"text")


def during(name: str, act: Callable[[], Any]) -> Any:
    """Do something while a request is between reading its session and saving it."""
    check, done = getattr(binding_views, name), list[Any]()

    def checked(*args: Any) -> Any:
        result = check(*args)
        if not done:
            done.append(None)
            in_another_thread(act)
        return result

    return mock.patch.object(binding_views, name, checked)


def in_another_thread(act: Callable[[], Any]) -> None:
    """Do something as another request would, which has a context of its own."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - the caller looks at it
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []


# Refresh ------------------------------------------------------------------------------------------


def test_a_device_of_one_s_own(browser: BoundBrowser, thief: BoundBrowser) -> None:
    challenge = challenge_of(thief.send_proof(None))
    assert challenge is not None
    for has_key in (False, True):
        assert_refused(send(thief, thief.device.proof(challenge, has_key=has_key)))


def test_the_proof_of_another_session(browser: BoundBrowser, thief: BoundBrowser) -> None:
    """Neither the answer to its challenge, nor its bound cookie, is worth anything here."""
    other = BoundBrowser(is_async=browser.is_async)
    other.log_in()
    for challenge in (other.challenge, challenge_of(thief.send_proof(None))):
        assert_refused(send(thief, other.device.proof(challenge, has_key=False)))
    assert other.send_proof(None, browser.binding).json()["continue"] is False
    with at(now() + 2 * MINUTE):
        thief.cookies[BOUND] = other.cookies[BOUND].value
        assert thief.user() == ""


def test_a_proof_is_not_sent_twice(browser: BoundBrowser, thief: BoundBrowser) -> None:
    """Not even at the same moment."""
    with at(now() + MINUTE):
        proof = browser.device.proof(challenge_of(browser.send_proof(None)), has_key=False)
        with during("_check_refresh", lambda: send(browser, proof)):
            assert_refused(send(thief, proof))
        assert_refused(send(thief, proof))


def test_two_refreshes_at_a_time(engine: Any, browser: BoundBrowser) -> None:
    """The answer to the later challenge counts, whichever is stored first."""
    moment = now() + MINUTE
    with at(moment):
        first = challenge_of(browser.send_proof(None))
    with at(moment + 10):
        second = challenge_of(browser.send_proof(None))
    with at(moment + 20):
        with during("_check_refresh", lambda: browser.send_proof(first)):
            assert browser.send_proof(second).status_code == 200
        binding = stored_binding(engine, browser)
        assert binding is not None
        assert binding.answered == moment + 10
        assert browser.user() == "ada"


def test_a_logout_meanwhile(browser: BoundBrowser) -> None:
    """The session stays ended, and the browser forgets the binding."""
    tab = browser.copied()
    with during("_check_refresh", lambda: tab.ask("logout")):
        response = browser.send_proof(browser.challenge)
    assert response.json() == {"session_identifier": browser.binding, "continue": False}
    assert BOUND not in response.cookies
    assert browser.user() == ""


@memory
@pytest.mark.parametrize("skew", [-10 * HOUR, 61_000])
def test_a_challenge_of_another_time(browser: BoundBrowser, skew: int) -> None:
    """It is too old, or of a server whose clock is too far ahead."""
    assert browser.binding
    subject = subject_of_refresh(browser.binding)
    with at(now() + 20 * HOUR):
        made = tokens.make_challenge(key_ring(), subject, now() + skew)
        assert browser.send_proof(made).status_code == 403
        made = tokens.make_challenge(key_ring(), subject, now() + 30_000)
        assert browser.send_proof(made).status_code == 200
        # The next challenge is after that of the server whose clock is ahead.
        assert browser.send_proof(challenge_of(browser.send_proof(None))).status_code == 200


@memory
def test_a_bound_cookie_is_no_challenge(browser: BoundBrowser) -> None:
    for text in (browser.cookies[BOUND].value, "", "A" * 40):
        assert browser.send_proof(text).status_code == 403


@memory
@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "RS256"},
        {"alg": "ES384"},
        {"alg": "es256"},
        {"alg": None},
        {"typ": "JWT"},
        {"typ": ""},
        {"crit": ["exp"]},
        {"crit": []},
        {"jwk": None},
        {"jwk": {}},
        {"jwk": {"kty": "oct", "k": "c2VjcmV0"}},
    ],
)
def test_other_headers_of_a_proof(
    browser: BoundBrowser, asked: tuple[BoundBrowser, str], header: dict[str, Any]
) -> None:
    other, challenge = asked
    assert_refused(send(other, other.device.proof(challenge, **header), "start"))
    if "jwk" in header:
        return  # A key is not looked at in a refresh.
    current = challenge_of(browser.send_proof(None))
    assert_refused(send(browser, browser.device.proof(current, has_key=False, **header)))


@memory
def test_no_signature(browser: BoundBrowser, asked: tuple[BoundBrowser, str]) -> None:
    other, challenge = asked
    for route, who, text in (
        ("start", other, challenge),
        ("refresh", browser, challenge_of(browser.send_proof(None))),
    ):
        first, second, _ = who.device.proof(text).split(".")
        unsigned = part({"alg": "none", "typ": "dbsc+jwt", "jwk": who.device.jwk})
        for proof in (
            f"{first}.{second}.",
            f"{first}.{second}",
            f"{unsigned}.{second}.",
            f"{first}.{second}.{encode_base64url(bytes(64))}",
        ):
            assert_refused(send(who, proof, route))


@memory
@pytest.mark.parametrize(
    "make",
    [
        lambda: EllipticDevice(ec.SECP384R1()),
        lambda: RsaDevice(1024),
        lambda: RsaDevice(2048, 3),
        lambda: RsaDevice(5120),
    ],
)
def test_keys_that_are_not_accepted(
    asked: tuple[BoundBrowser, str], make: Callable[[], EllipticDevice]
) -> None:
    other, challenge = asked
    device = make()
    if isinstance(device, RsaDevice):
        proof = device.proof(challenge)
    else:
        point = device.private.public_key().public_numbers()
        size = encode_base64url(point.x.to_bytes(48, "big"))
        jwk = {"kty": "EC", "crv": "P-256", "x": size, "y": size}
        proof = EllipticDevice().proof(challenge, jwk=jwk)
    assert_refused(send(other, proof, "start"))


@memory
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        '"',
        '""',
        ";",
        "?1",
        ":YQ==:",
        "1.5",
        '"a", "b"',
        "(a b)",
        '"\\',
        '"\\x"',
        "é",
        "\x00",
        "a.b.c",
        "..",
        "." * 100,
        "a" * (MAX_LENGTH + 1),
        '"' + "a" * (MAX_LENGTH - 2) + '"',
        "e30.e30.e30",
        f"{part([])}.{part([])}.AAAA",
        f"{part({'alg': 1, 'typ': []})}.{part({})}.AAAA",
        f"{encode_base64url(b'[' * 3000)}.e30.AAAA",
        f"{encode_base64url(bytes([0xFF]))}.e30.AAAA",
    ],
)
def test_malformed_headers(
    browser: BoundBrowser, asked: tuple[BoundBrowser, str], value: str
) -> None:
    other, _ = asked
    assert_refused(send(other, value, "start"))
    assert_refused(send(browser, value))
    response = send(browser, value, Sec_Secure_Session_Id=value)
    assert response.status_code in {200, 403}
    if response.status_code == 200:
        assert response.json()["continue"] is False
        assert len(response.content) < 1000


# Anything ---------------------------------------------------------------------------------------


FUZZED = 2_500
"""How many requests are made up for each of the two endpoints, sync and async."""


def mutated(chance: random.Random, text: str) -> str:
    """Return a text with some of its characters changed, removed, doubled or put elsewhere."""
    alphabet = '"\\.;=,() \t-_~/+*:?é{}[]0aZ\x7f'
    characters = list(text)
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        place = chance.randrange(len(characters) + 1)
        match chance.randrange(5):
            case 0:
                characters[place : place + 1] = chance.choice(alphabet)
            case 1:
                del characters[place : place + chance.choice((1, 4, 100))]
            case 2:
                characters[place:place] = characters[: chance.choice((1, 10, 500))]
            case 3:
                characters[place:place] = list(chance.choice(alphabet) * chance.choice((1, 9000)))
            case _:
                chance.shuffle(characters)
    return "".join(characters)


def made_up(chance: random.Random, device: EllipticDevice, challenge: str) -> str:
    """Return something like a proof."""
    if chance.randrange(8) == 0:
        return "".join(chr(chance.randrange(1, 256)) for _ in range(chance.randrange(40)))
    values: list[Any] = [None, 1, -1.5, True, "", "ES256", "none", [], {}, "x" * 300, device.jwk]
    header: dict[str, Any] = {"alg": "ES256", "typ": "dbsc+jwt", "jwk": device.jwk}
    claims: dict[str, Any] = {"jti": challenge}
    for each in (header, claims):
        if chance.randrange(3) == 0:
            each[chance.choice(["alg", "typ", "jwk", "crit", "jti", "kid", "exp"])] = chance.choice(
                values
            )
        if chance.randrange(8) == 0:
            each.pop(chance.choice(list(each)), None)
    if chance.randrange(4) == 0 and isinstance(header.get("jwk"), dict):
        header["jwk"] = {**device.jwk, chance.choice(["x", "y", "kty", "crv", "n", "e"]): "AQAB"}
    signed = f"{part(header)}.{part(claims)}"
    signature = device.sign(signed.encode()) if chance.randrange(2) else json.dumps(header).encode()
    proof = f"{signed}.{encode_base64url(signature)}"
    return mutated(chance, f'"{proof}"' if chance.randrange(2) else proof)


@memory
@pytest.mark.slow
@pytest.mark.parametrize("route", ["start", "refresh"])
def test_made_up_headers(
    engine: Any, browser: BoundBrowser, asked: tuple[BoundBrowser, str], route: str
) -> None:
    """None of them is an error of the server, and none is accepted.

    Those of the refresh answer a challenge that was answered before, and those of the registration
    that of another session: some of what is made up is a proof that the protocol allows.
    """
    _other, challenge = asked
    who = browser
    if route == "start":
        who = BoundBrowser(is_async=browser.is_async)
        who.ask("login/ada")
        device = who.device
    else:
        challenge = challenge_of(browser.send_proof(None)) or ""
        assert browser.send_proof(challenge).status_code == 200
        device = browser.device
    binding = stored_binding(engine, who)
    chance = random.Random(route)
    for _ in range(FUZZED):
        headers = {}
        if chance.randrange(4) == 0:
            headers["Sec_Secure_Session_Id"] = mutated(chance, f'"{who.binding}"')
        if chance.randrange(8) == 0:
            headers["Secure_Session_Skipped"] = mutated(chance, "unreachable")
        response = send(who, made_up(chance, device, challenge), route, **headers)
        assert response.status_code in {200, 403}
        assert BOUND not in response.cookies
        if response.status_code == 200:
            assert response.json()["continue"] is False
    assert stored_binding(engine, who) == binding
    assert who.user() == "ada"
