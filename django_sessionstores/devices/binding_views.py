"""The endpoints for the proofs of devices, which browsers call, see `middleware.device_binding`.

Both accept any input: whatever is not a proof of the right device changes nothing. Browsers send
them without a token against forged requests, and need none: only a browser that has the key of the
device can answer the challenge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from ..binding import headers, tokens
from ..binding.bindings import BINDING, Binding, binding_of
from ..binding.headers import InvalidProof
from ..binding.proofs import read_refresh, read_registration
from ..conf import key_ring
from ..core import clock
from ..core.flow import Call, Flow, arun, run
from ..core.records import Record, SecretDict, SecretText, as_secret
from ..exceptions import SessionConflict, SessionEnded
from ..middleware.cookies import send_cookie
from ..middleware.device_binding import (
    can_bind,
    challenge_life,
    describe_binding,
    enforced_from,
    set_bound_cookie,
    subject_of_refresh,
    subject_of_registration,
)
from ..sessions import SessionStore
from ..sessions.device_proof import bound_cookie_name
from ..sessions.refusals import accept_without_proof, require_proof, set_proof

Handler = Callable[[HttpRequest], Flow[HttpResponse]]
View = Callable[..., Any]

security_logger = logging.getLogger("django.security.SuspiciousSession")

_LONGEST_ID: Final = 100
"""The characters of an id that are repeated in a response at most."""


def sync_view(handler: Handler) -> View:
    """Return a sync view that runs a handler."""

    def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return run(_answer(handler, request))

    return _exempt(view)


def async_view(handler: Handler) -> View:
    """Return an async view; see `sync_view`."""

    async def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return await arun(_answer(handler, request))

    return _exempt(view)


def _exempt(view: View) -> View:
    """Return a view that no middleware keeps a browser without a proof from."""
    return login_not_required(csrf_exempt(require_POST(view)))


def _answer(handler: Handler, request: HttpRequest) -> Flow[HttpResponse]:
    session = _session_of(request)
    bound_cookie = session.policy.bound_cookie if session and session.policy else None
    try:
        response = yield from handler(request)
    finally:
        if session is not None:
            require_proof(session, bound_cookie)
    add_never_cache_headers(response)
    return response


def start(request: HttpRequest) -> Flow[HttpResponse]:
    """Bind the session to the device whose key the browser has sent.

    The challenge was made in the request in which the user has logged in, for this session only.
    """
    session = _session_of(request)
    if session is None or not can_bind(request):
        return HttpResponse(status=403)
    data = yield from _read(session)
    record = session.known_record
    if record is None or not session.is_stored or record.user_id is None or BINDING in data:
        return HttpResponse(status=403)
    moment = clock.now()
    try:
        registration = read_registration(request.headers.get(headers.PROOF, ""))
        answered = _check_registration(registration.challenge, record, moment)
        binding = Binding(registration.key.to_bytes(), answered, enforced_from(moment))
        response = yield from _store(request, session, binding)
    except (InvalidProof, SessionEnded, SessionConflict) as error:
        _log(session, error)
        return HttpResponse(status=403)
    return response


def refresh(request: HttpRequest) -> Flow[HttpResponse]:
    """Give the browser a new bound cookie if it answers a challenge with the key of its device.

    Without that proof, nothing changes: not even a binding that the settings no longer allow ends.
    """
    if not request.is_secure():
        # Browsers send it over HTTPS only. If it is one, the site does not know that, and after an
        # error of the server the browser tries again.
        return HttpResponse(status=503)
    try:
        stated = headers.read_item(request.headers.get(headers.BINDING_ID, ""))
    except InvalidProof:
        return HttpResponse(status=403)
    session = _session_of(request)
    if session is None:
        return _end_binding(stated)
    data = yield from _read(session)
    if not (session.is_stored or session.is_empty()):
        # The session got another key by a parallel request, or cannot be read now. That says
        # nothing about the binding, and after an error of the server the browser tries again.
        return HttpResponse(status=503)
    binding = binding_of(data)
    if binding is None or binding.id != stated:
        return _end_binding(stated)
    proof = request.headers.get(headers.PROOF)
    if proof is None:
        return _ask(binding)
    try:
        answered = _check_refresh(proof, binding)
        if not can_bind(request):
            yield Call(session, "pop", (BINDING,))
            return _end_binding(stated)
        response = yield from _store(request, session, binding._replace(answered=answered))
    except SessionEnded:
        return _end_binding(stated)
    except (ValueError, SessionConflict) as error:  # InvalidProof is a ValueError.
        _log(session, error)
        return _ask(binding)
    return response


def _session_of(request: HttpRequest) -> SessionStore | None:
    """Return the session of a request, if the package's middleware has made it."""
    session = getattr(request, "session", None)
    is_ours = isinstance(session, SessionStore) and session.policy is not None
    return session if is_ours else None


def _read(session: SessionStore) -> Flow[dict[str, Any]]:
    """Return the data of a session, although the proof of its device may be missing still."""
    accept_without_proof(session)
    yield Call(session, "get", (BINDING,))
    return SecretDict(session._session_cache)


def _check_registration(challenge: str, record: Record, moment: int) -> int:
    """Return when the challenge of a registration was made. Raises `InvalidProof`."""
    subject = subject_of_registration(record)
    return tokens.check_challenge(key_ring(), challenge, subject, moment, challenge_life())


def _check_refresh(proof: str, binding: Binding) -> int:
    """Return when the challenge was made that a proof answers. Raises ``ValueError``."""
    challenge = read_refresh(proof, binding.key)
    subject, moment = subject_of_refresh(binding.id), clock.now()
    answered = tokens.check_challenge(key_ring(), challenge, subject, moment, challenge_life())
    if answered <= binding.answered:
        raise InvalidProof("challenge has been answered")
    return answered


def _store(request: HttpRequest, session: SessionStore, binding: Binding) -> Flow[HttpResponse]:
    """Store a binding; return the response with a bound cookie.

    Raises `SessionEnded`, `SessionConflict`, and `InvalidProof` if another request was faster.
    """
    yield Call(session, "update", ({BINDING: binding.to_text()},))
    try:
        yield Call(session, "save", ())
    finally:
        session.modified = False  # The middleware must not save it once more.
    response = HttpResponse(content_type="application/json")
    set_bound_cookie(response, binding.id)
    set_proof(session, SecretText(response.cookies[bound_cookie_name()].value))
    response.content = JsonResponse(describe_binding(response, binding.id)).content
    response.headers[headers.CHALLENGE] = _challenge(binding)
    sent = as_secret(request.COOKIES.get(django_settings.SESSION_COOKIE_NAME))
    if session.cookie_is_due or session.session_key != sent:
        yield from send_cookie(response, session)
    return response


def _ask(binding: Binding) -> HttpResponse:
    """Return the response that asks for a proof."""
    response = HttpResponse(status=403)
    response.headers[headers.CHALLENGE] = _challenge(binding)
    return response


def _challenge(binding: Binding) -> str:
    """Return the header that asks for a proof, now or at the next refresh."""
    # The clock of the server that has made the last challenge may be ahead of this one.
    moment = max(clock.now(), binding.answered + 1)
    made = tokens.make_challenge(key_ring(), subject_of_refresh(binding.id), moment)
    return headers.challenge(made, binding.id)


def _end_binding(stated: str) -> HttpResponse:
    """Return the response that tells the browser to forget a binding."""
    return JsonResponse({"session_identifier": stated[:_LONGEST_ID], "continue": False})


def _log(session: SessionStore, error: Exception) -> None:
    security_logger.info("A proof for session %s was refused: %s.", session.session_id, error)
