"""The proof of a device: what a session that is bound to a device needs in order to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings as django_settings

from ..binding import headers
from ..binding.bindings import BINDING, binding_of
from ..binding.headers import InvalidProof
from ..binding.tokens import is_bound_value
from ..conf import key_ring, settings
from ..core import clock
from ..core.records import SecretText
from .state import RequestPolicy


def is_missing(policy: RequestPolicy, data: Mapping[str, Any]) -> bool:
    """Return whether the session with this data is bound to a device, and its proof is missing.

    The proof is the bound cookie, which is verified without asking a store. Nothing is missing if
    the settings do not ask for it.
    """
    if policy.bound_cookie is None or BINDING not in data:
        return False
    binding, moment = binding_of(data), clock.now()
    if binding is None or moment < binding.enforced:
        return False
    return not is_bound_value(key_ring(), policy.bound_cookie, binding.id, moment)


def is_given(policy: RequestPolicy | None, data: Mapping[str, Any]) -> bool:
    """Return whether the session with this data is bound to a device, and its proof is there.

    For a minute after the registration, it may be neither there nor missing.
    """
    binding = binding_of(data)
    if policy is None or policy.bound_cookie is None or binding is None:
        return False
    return is_bound_value(key_ring(), policy.bound_cookie, binding.id, clock.now())


def bound_cookie_name() -> str:
    """Return the name of the bound cookie. A prefix such as ``__Host-`` applies to it as well."""
    return f"{django_settings.SESSION_COOKIE_NAME}-bound"


def bound_cookie(cookies: Mapping[str, str]) -> SecretText | None:
    """Return the bound cookie among the cookies of a request, empty without one.

    Return ``None`` if ``DEVICE_BINDING`` is not set, so that sessions need no bound cookie.
    """
    if not settings.DEVICE_BINDING:
        return None
    return SecretText(cookies.get(bound_cookie_name(), ""))


def reason_to_skip(header: str) -> str:
    """Return why the browser has sent a request without a refresh; empty if it does not say.

    ``header`` is the value of `headers.SKIPPED`.
    """
    try:
        reason = headers.read_item(header)
    except InvalidProof:
        return ""
    return reason if reason in headers.REASONS_TO_SKIP else ""
