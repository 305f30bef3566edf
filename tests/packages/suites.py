"""The packages whose tests are run: versions, what the tests need, and how they are started.

A new one is a row of `SUITES`. Failures that are known are in the folder `expected`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

ALL = (
    "Django's db",
    "Django's cache",
    "Django's signed_cookies",
    "db",
    "db under our middleware",
    "cache",
    "cookie",
)
"""The names of all backends."""


@dataclass(frozen=True)
class Suite:
    """The tests of one package, in its source distribution."""

    package: str
    """The name under which it is published."""
    version: str
    tests: tuple[str, ...]
    """The files and folders that pytest is given."""
    extras: str = ""
    """Of the package, with commas between them."""
    requires: tuple[str, ...] = ()
    """Further packages that its tests import."""
    settings: str = ""
    """The module with its settings; empty if its own configuration of pytest names it, or if its
    tests call ``settings.configure()``."""
    options: tuple[str, ...] = ()
    """Further options of pytest."""
    configures_pytest: bool = False
    """Whether it has a configuration of pytest of its own, which then holds."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files that its tests need and that its source distribution leaves out, with their text."""
    processes: int = 2
    """Workers of pytest-xdist. Each imports all tests again, so what runs in CI has none, unless
    its tests sleep."""
    in_ci: tuple[str, ...] = ()
    """The backends that it runs on in each CI run."""
    from_repository: bool = False
    """Whether the source distribution lacks too much: then a checkout of the repository, of the tag
    with the version, has to be put into the cache folder by hand."""


# mozilla-django-oidc leaves out its settings. These are the ones that its tests assume.
_OIDC_SETTINGS = """\
SECRET_KEY = "tests only"
USE_TZ = True
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "mozilla_django_oidc.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "mozilla_django_oidc",
]
MIDDLEWARE = []
OIDC_USERNAME_ALGO = None
"""
_OIDC_URLS = """\
from django.urls import include, path

urlpatterns = [path("namespace/", include(("mozilla_django_oidc.urls", "namespace")))]
"""

# django-impersonate publishes its tests within the package, and no settings for them.
_IMPERSONATE_SETTINGS = """\
SECRET_KEY = "tests only"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
ROOT_URLCONF = "impersonate.tests"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "impersonate",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "impersonate.middleware.ImpersonateMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
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
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
IMPERSONATE = {"DISABLE_LOGGING": True}
"""

SUITES = (
    Suite(
        "django-allauth",
        "65.22.1",
        ("tests", "allauth"),
        extras="headless,idp-oidc,mfa,openid,socialaccount,steam",
        requires=(
            *("django-ninja", "djangorestframework", "pillow", "psycopg[binary]"),
            *("pytest-asyncio", "pyyaml"),
        ),
        settings="tests.projects.regular.settings",
        configures_pytest=True,
        # Counts on a primary key that depends on the order of all tests.
        options=("--deselect=tests/apps/account/test_phone.py::test_signup_conflict",),
        processes=0,
        in_ci=("db",),
    ),
    Suite(
        "djangorestframework",
        "3.18.3",
        ("tests",),
        requires=("dj-database-url",),
        configures_pytest=True,
        processes=0,
        in_ci=("db",),
    ),
    Suite(
        "social-auth-app-django",
        "8.0.0",
        ("tests",),
        settings="tests.settings",
        processes=0,
        in_ci=("db",),
    ),
    Suite(
        "django-axes",
        "8.3.1",
        ("tests",),
        requires=("django-ipware",),
        configures_pytest=True,
        # Without the report of coverage that its own options ask for.
        options=("--override-ini=addopts=",),
        # Most of the time, its tests sleep.
        processes=4,
        in_ci=("db",),
    ),
    Suite(
        "mozilla-django-oidc",
        "5.0.2",
        ("tests",),
        requires=("djangorestframework", "responses"),
        settings="tests.settings",
        files={
            "tests/__init__.py": "",
            "tests/settings.py": _OIDC_SETTINGS,
            "tests/namespaced_urls.py": _OIDC_URLS,
        },
        processes=0,
        in_ci=("db",),
    ),
    Suite(
        "django-oauth-toolkit",
        "3.4.1",
        ("tests",),
        extras="test",
        settings="tests.settings",
        configures_pytest=True,
        from_repository=True,
    ),
    Suite("django-formtools", "2.7", ("tests",), settings="tests.settings"),
    Suite(
        "django-impersonate",
        "1.9.5",
        ("impersonate/tests.py",),
        # Its tests import distutils, which is part of setuptools from Python 3.12 on.
        requires=("setuptools",),
        settings="impersonate_settings",
        files={"impersonate_settings.py": _IMPERSONATE_SETTINGS},
    ),
    Suite(
        "django-loginas",
        "0.3.14",
        ("loginas/tests",),
        settings="loginas.tests.settings",
        # A test names the class by the module that it is in if Django's runner starts beside it.
        files={"tests.py": "from loginas.tests.tests import WrongAuthBackend\n"},
    ),
    Suite(
        "django-mama-cas",
        "2.5.0",
        ("mama_cas/tests",),
        requires=("defusedxml", "factory-boy"),
        settings="mama_cas.tests.settings",
        # They ask a host on the internet.
        options=tuple(
            f"--deselect=mama_cas/tests/test_models.py::ServiceTicketTests::{test}"
            for test in (
                "test_request_sign_out",
                "test_request_sign_out_exception",
                "test_request_sign_out_invalid_status",
            )
        ),
    ),
)
