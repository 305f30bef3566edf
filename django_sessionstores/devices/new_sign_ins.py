"""Noticing a login from a device that the user's sessions do not have, and telling the user.

See ``NEW_SIGN_IN``. Everything known about a device comes from the user's live sessions: nothing
else is stored, and nobody else is asked.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, Final

import msgspec
from django.conf import settings as django_settings
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import DisallowedHost
from django.core.mail import EmailMultiAlternatives
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import translation

from .. import signals
from ..conf import settings
from ..core import clock
from ..core.lifetime import utc_datetime
from ..core.phrases import escape_invisible
from ..core.records import Client
from ..exceptions import CannotList, StorageUnavailable
from ..inventory import Inventory, SessionInfo
from ..sessions import SessionStore
from ..sessions.state import Event
from .names import country_name, describe_device, describe_place, device_kind, device_name

logger: Final = logging.getLogger("django_sessionstores")

_MOST_COMPARED: Final = 500
"""With how many sessions of the user a login is compared."""
_LANGUAGES: Final = ("language", "preferred_language", "locale")
"""The attributes of a user that may have the code of a language."""
_TEMPLATES: Final = "django_sessionstores/devices/new_sign_in"


class NewSignIn(msgspec.Struct, frozen=True, kw_only=True):
    """A login from a device that none of the user's live sessions has."""

    user: Any
    client: Client
    """The ``ip`` and the ``user_agent`` of the login."""
    country: str
    """The English name of the country of the address; empty if it is not known."""
    when: datetime
    language: str
    """The code of the user's language; that of the request if the user has none."""
    devices_url: str
    """The address of the page "Your devices"; empty if the site does not have it."""


def connect() -> None:
    """Connect the receivers of Django's ``user_logged_in``, and of the signal for emails."""
    user_logged_in.connect(_after_login, dispatch_uid="django_sessionstores.devices.new_sign_ins")
    signals.new_sign_in.connect(_send_email, dispatch_uid="django_sessionstores.devices.email")


def _after_login(request: HttpRequest | None, user: Any, **_: Any) -> None:
    if settings.NEW_SIGN_IN == "ignore":
        return
    session = getattr(request, "session", None)
    if request is None or not isinstance(session, SessionStore):
        return
    if session.policy is None or session.policy.client is None:
        return  # Without the package's middleware, sessions do not have their clients.
    client = session.policy.client()
    try:
        if _is_known(user, client):
            return
    except (CannotList, StorageUnavailable) as error:
        # The login goes on, or fails for the same reason when the session is saved.
        logger.warning("It is not known whether a login is from a new device: %s", error)
        return
    found = NewSignIn(
        user=user,
        client=client,
        country=country_name(client.ip),
        when=utc_datetime(clock.now()),
        language=_language_of(user),
        devices_url=_devices_url(request),
    )
    facts = {name: getattr(found, name) for name in found.__struct_fields__}
    # Sent when the login is stored. It may be refused, or the view may fail.
    session.sign_in = Event(signals.new_sign_in, facts)


def _is_known(user: Any, client: Client) -> bool:
    """Return whether a live session of the user has this device in this country.

    Of a user with very many sessions, some of which were not compared, every device is known.
    """
    page = Inventory().list(user=user, limit=_MOST_COMPARED)
    return bool(page.next) or any(_is_alike(each, client) for each in page.sessions)


def _is_alike(session: SessionInfo, client: Client) -> bool:
    if device_name(session.user_agent) != device_name(client.user_agent):
        return False
    countries = country_name(session.ip), country_name(client.ip)
    return "" in countries or countries[0] == countries[1]


def _language_of(user: Any) -> str:
    for name in _LANGUAGES:
        code = getattr(user, name, None)
        if isinstance(code, str) and code:
            try:
                return translation.get_supported_language_variant(code)
            except (LookupError, ValueError):  # The latter if it is much too long.
                continue
    return translation.get_language() or django_settings.LANGUAGE_CODE


def _devices_url(request: HttpRequest) -> str:
    try:
        return request.build_absolute_uri(reverse("your_devices:list"))
    except (NoReverseMatch, DisallowedHost):
        return ""


def _send_email(**facts: Any) -> None:
    """Send the notice to the user's email address, if there is one. An error is only logged."""
    if settings.NEW_SIGN_IN != "email":
        return
    found = NewSignIn(**{name: facts[name] for name in NewSignIn.__struct_fields__})
    field = getattr(found.user, "get_email_field_name", lambda: "email")()
    address = getattr(found.user, field, "")
    if not address:
        return
    try:
        with translation.override(found.language):
            email = _email(found, address)
        email.send()
    except Exception as error:  # noqa: BLE001 - a mail backend may raise anything
        logger.error(  # noqa: TRY400 - a traceback has the address and the text of the mail.
            "User %s was not told about a login from a new device, because the mail was not sent: "
            "%s: %s",
            found.user.pk,
            type(error).__name__,
            _text_of(error, address),
        )


def _text_of(error: Exception, address: str) -> str:
    """Return the text of an error in one line and without the address, which servers quote."""
    text = str(error)
    for each in (address, repr(address)[1:-1]):
        text = text.replace(each, "…")
    return escape_invisible(" ".join(text.split()))


def _email(found: NewSignIn, address: str) -> EmailMultiAlternatives:
    context = {
        "user": found.user,
        "device": describe_device(found.client.user_agent),
        "kind": device_kind(found.client.user_agent),
        "place": describe_place(found.client.ip),
        "ip": found.client.ip,
        "when": found.when,
        "devices_url": found.devices_url,
    }
    # A subject has one line, whatever a client calls itself.
    subject = " ".join(render_to_string(f"{_TEMPLATES}_subject.txt", context).split())
    email = EmailMultiAlternatives(
        subject, render_to_string(f"{_TEMPLATES}.txt", context), to=[address]
    )
    email.attach_alternative(render_to_string(f"{_TEMPLATES}.html", context), "text/html")
    return email
