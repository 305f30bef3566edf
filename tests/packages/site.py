"""A site with other people's packages installed, and what its visitors do.

``python -m tests.packages.site BACKEND SCENARIO [REDIS_URL]`` runs one of the functions of
`SCENARIOS` and prints what it found, as JSON. In a process of its own: some of the packages import
the session backend when they are loaded, and their tables are in no other site.
"""

import json
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import django
from django.conf import settings

from tests.packages.backends import BACKENDS, Backend

DJANGOS_MIDDLEWARE = "django.contrib.sessions.middleware.SessionMiddleware"
CACHE_ALIAS = "sessions"
_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    # django-preventconcurrentlogins imports its model.
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django_sessionstores",
    "allauth",
    "allauth.account",
    "allauth.headless",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.dummy",
    "allauth.usersessions",
    "django_cas_ng",
    "hijack",
    "preventconcurrentlogins",
]
_TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def configure(backend: Backend, redis_url: str) -> None:
    caches = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    if backend.needs_redis:
        redis_cache = "django.core.cache.backends.redis.RedisCache"
        caches[CACHE_ALIAS] = {"BACKEND": redis_cache, "LOCATION": redis_url}
    settings.configure(
        SECRET_KEY="tests only",
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        ROOT_URLCONF="tests.packages.site_urls",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        INSTALLED_APPS=_APPS,
        MIDDLEWARE=[
            backend.middleware or DJANGOS_MIDDLEWARE,
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
            "allauth.usersessions.middleware.UserSessionsMiddleware",
            "hijack.middleware.HijackUserMiddleware",
        ],
        TEMPLATES=_TEMPLATES,
        AUTHENTICATION_BACKENDS=[
            "django.contrib.auth.backends.ModelBackend",
            "django_cas_ng.backends.CASBackend",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        LOGIN_REDIRECT_URL="/who/",
        CACHES=caches,
        SESSION_ENGINE=backend.engine,
        SESSION_CACHE_ALIAS=CACHE_ALIAS if backend.needs_redis else "default",
        ACCOUNT_EMAIL_VERIFICATION="none",
        EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
        HEADLESS_CLIENTS=["app"],
        USERSESSIONS_TRACK_ACTIVITY=True,
        CAS_SERVER_URL="http://cas.example/",
        CAS_LOGIN_MSG=None,
        CAS_VERSION="3",
        **backend.settings,
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def browser() -> Any:
    from django.test import Client

    return Client()


def user(username: str, **attributes: Any) -> Any:
    from django.contrib.auth import get_user_model

    manager: Any = get_user_model()._default_manager
    return manager.create_user(username, f"{username}@example.com", "secret", **attributes)


def sign_in(client: Any, username: str) -> None:
    """Through allauth's form, as a visitor does."""
    answer = client.post("/accounts/login/", {"login": username, "password": "secret"})
    assert answer.status_code == 302, answer.content


def who(client: Any) -> str:
    return str(client.get("/who/").content.decode())


# Scenarios --------------------------------------------------------------------------------------


def cas_single_logout() -> dict[str, Any]:
    """django-cas-ng: a login with a ticket, and the CAS server's word that it has ended."""
    from django_cas_ng.models import SessionTicket

    visitor = browser()
    visitor.get("/visit/")  # An anonymous session, whose key changes at login.
    answer = ("anna", {}, None)
    with mock.patch("cas.CASClientV3.verify_ticket", return_value=answer):
        visitor.get("/cas/login?ticket=ST-1")
    signed_in = who(visitor)
    key = visitor.cookies["sessionid"].value
    tickets = [each.session_key == key for each in SessionTicket.objects.all()]
    request = (
        '<samlp:LogoutRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol">'
        "<samlp:SessionIndex>ST-1</samlp:SessionIndex></samlp:LogoutRequest>"
    )
    browser().post("/cas/login", {"logoutRequest": request})
    return {"signed in": signed_in, "ticket has the key": tickets, "after": who(visitor)}


def social_login() -> dict[str, Any]:
    """allauth: its state for the provider is in a session that it replaces in the request."""
    found = {}
    for number, name, when in ((7, "anna", "after a visit"), (8, "bert", "at once")):
        visitor = browser()
        if when == "after a visit":
            visitor.get("/visit/")
        to_provider = visitor.post("/accounts/dummy/login/")
        form = {"id": number, "email": f"{name}@example.com", "email_verified": True}
        back = visitor.post(to_provider["Location"], form)
        found[when] = [back.status_code, who(visitor), visits(visitor)]
    return found


def visits(client: Any) -> str:
    return str(client.get("/visits/").content.decode())


def users_sessions() -> dict[str, Any]:
    """allauth.usersessions: lists the sessions of a user by their keys, and ends the others."""
    from allauth.usersessions.models import UserSession

    anna = user("anna")
    here, there = browser(), browser()
    for client in (here, there):
        client.get("/visit/")
        sign_in(client, "anna")
    found: dict[str, Any] = {"listed": len(UserSession.objects.purge_and_list(anna))}
    for client in (here, there):
        client.get("/visit/")
    found["listed later"] = len(UserSession.objects.purge_and_list(anna))
    change = {"oldpassword": "secret", "password1": "An0ther-one", "password2": "An0ther-one"}
    here.post("/accounts/password/change/", change)
    found["after a password change"] = [who(here), who(there)]
    there = browser()
    there.post("/accounts/login/", {"login": "anna", "password": "An0ther-one"})
    found["before"] = [who(here), who(there)]
    here.post("/accounts/sessions/")
    found["after"] = [who(here), who(there)]
    found["listed at last"] = len(UserSession.objects.purge_and_list(anna))
    return found


def password_change_beside_a_poll() -> dict[str, Any]:
    """allauth: another tab asks for a page while the password is changed, and has the old key."""
    from allauth.account.signals import password_changed

    user("anna")
    here, poll = browser(), browser()
    sign_in(here, "anna")
    poll.cookies = here.cookies.copy()
    polls = []

    def while_it_runs(**kwargs: Any) -> None:
        polls.append(poll.get("/who/").status_code)

    password_changed.connect(while_it_runs)
    change = {"oldpassword": "secret", "password1": "An0ther-one", "password2": "An0ther-one"}
    answer = here.post("/accounts/password/change/", change)
    return {"change": answer.status_code, "polls": polls, "afterwards": who(here)}


def app_password_change() -> dict[str, Any]:
    """allauth.headless: an app has no cookies, and sends the key of its session in a header."""
    from django.test import modify_settings

    user("anna")
    # It puts a user into the request that allauth cannot take out.
    with modify_settings(MIDDLEWARE={"remove": "hijack.middleware.HijackUserMiddleware"}):
        here, there = _App(), _App()
        for app in (here, there):
            app.ask("POST", "auth/login", username="anna", password="secret")
        before, key = [here.is_signed_in(), there.is_signed_in()], here.key
        change = {"current_password": "secret", "new_password": "An0ther-one"}
        status = here.ask("POST", "account/password/change", **change)
        return {
            "before": before,
            "change": status,
            "has another key": here.key != key,
            "after": [here.is_signed_in(), there.is_signed_in()],
        }


class _App:
    """A client of allauth.headless that keeps the key of its session itself."""

    def __init__(self) -> None:
        self.key = ""

    def ask(self, method: str, path: str, **data: str) -> int:
        headers = {"X-Session-Token": self.key} if self.key else {}
        address, text, kind = f"/_allauth/app/v1/{path}", json.dumps(data), "application/json"
        answer = browser().generic(method, address, text, kind, headers=headers)
        if answer["Content-Type"] == kind:
            self.key = answer.json().get("meta", {}).get("session_token") or self.key
        return int(answer.status_code)

    def is_signed_in(self) -> bool:
        return self.ask("GET", "auth/session") == 200


def one_login_at_a_time() -> dict[str, Any]:
    """django-preventconcurrentlogins: ends the session whose key it has noted at the last login."""
    from django.test import modify_settings

    middleware = "preventconcurrentlogins.middleware.PreventConcurrentLoginsMiddleware"
    user("anna")
    with modify_settings(MIDDLEWARE={"append": middleware}):
        here, there = browser(), browser()
        sign_in(here, "anna")
        alone = []
        for _ in range(4):
            here.get("/visit/")
            alone.append(who(here))
        sign_in(there, "anna")
        return {"alone": alone, "later one": who(there), "earlier one": who(here)}


def hijacking() -> dict[str, Any]:
    """django-hijack: signs in as somebody else, and back."""
    user("boss", is_staff=True, is_superuser=True)
    anna = user("anna")
    client = browser()
    sign_in(client, "boss")
    client.get("/expire/600/")
    client.post("/hijack/acquire/", {"user_pk": anna.pk})
    acquired = who(client)
    expiry = client.get("/expiry/").content.decode()
    client.post("/hijack/release/")
    return {"acquired": acquired, "expiry": expiry, "released": who(client)}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    scenario.__name__: scenario
    for scenario in (
        cas_single_logout,
        social_login,
        users_sessions,
        password_change_beside_a_poll,
        app_password_change,
        one_login_at_a_time,
        hijacking,
    )
}


def main(backend: str, scenario: str, redis_url: str = "") -> None:
    configure(BACKENDS[backend], redis_url)
    print(json.dumps(SCENARIOS[scenario]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
