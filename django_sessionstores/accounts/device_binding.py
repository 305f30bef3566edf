"""Views that require a session that is bound to the device of its user, or a recent login.

Each function has a twin for async code, with an ``a`` before its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, overload

from django.http import HttpRequest, HttpResponse

from ..binding.bindings import BINDING
from ..conf import settings
from ..core.flow import Call, Flow, arun, run
from ..sessions import SessionStore
from ..sessions.device_proof import is_given
from .recent_authentication import (
    View,
    ask_to_sign_in,
    check_age,
    guarded,
    is_recent,
    require_times,
)
from .users import RequestUser

REQUIRES_BOUND_SESSION: Final = "requires_bound_session"
"""The attribute of a view that `bound_session_required` has decorated."""


def is_bound(session: Any) -> bool:
    """Return whether a session is bound to a device, and the request has the proof of the device.

    False outside of requests, under Django's middleware, and if ``DEVICE_BINDING`` is not set,
    because nothing looks for the proof there.
    """
    return run(_is_bound(session))


async def ais_bound(session: Any) -> bool:
    """See `is_bound`."""
    return await arun(_is_bound(session))


@overload
def bound_session_required(view: View) -> View: ...
@overload
def bound_session_required(*, age: float | None = None) -> Callable[[View], View]: ...
def bound_session_required(view: View | None = None, *, age: float | None = None) -> Any:
    """Require that the session of a view is bound to a device, or that its login is recent.

    A user whose browser cannot bind sessions has to sign in again if the last login is more than
    ``age`` seconds ago. The default age is ``RECENT_AUTHENTICATION_AGE`` or, if that is ``None``,
    ``DEVICE_BINDING_LIFETIME``: then a copied cookie opens the view as long as it would if it were
    bound. Users are refused as by `recent_authentication_required`. The decorator works for sync
    and async views, and with ``method_decorator`` for methods of classes.
    """
    check_age(age)

    def decorate(view: View) -> View:
        decorated = guarded(view, lambda request: _refusal(request, age))
        setattr(decorated, REQUIRES_BOUND_SESSION, True)  # A check finds the view by it.
        return decorated

    return decorate if view is None else decorate(view)


def _is_bound(session: Any) -> Flow[bool]:
    if not isinstance(session, SessionStore):
        return False
    text = yield Call(session, "get", (BINDING,))
    return is_given(session.policy, {BINDING: text})


def _refusal(request: HttpRequest, age: float | None) -> Flow[HttpResponse | None]:
    """Return the response for a user who may not use the view; ``None`` if the user may."""
    require_times(request)
    if age is None:
        age = settings.RECENT_AUTHENTICATION_AGE or settings.DEVICE_BINDING_LIFETIME
    user = yield Call(RequestUser(request), "get", ())
    if user.is_authenticated:
        session = request.session
        if (yield from _is_bound(session)) or (yield from is_recent(session, age)):
            return None
    return ask_to_sign_in(request, user)
