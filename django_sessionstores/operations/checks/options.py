"""Checks of the options in ``SESSIONSTORES``: they exist, are valid, and are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ... import conf
from ...conf import NAME, OPTIONS, full_name
from ...core.phrases import Phrase, message_of
from ...middleware.installed import has_package_middleware
from .configuration import configured_storage, if_valid


@checks.register
def check_settings(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the options in ``SESSIONSTORES`` exist and have valid values."""
    options = getattr(django_settings, NAME, {})
    if not isinstance(options, dict):
        return [
            checks.Error(
                conf.wrong_type_message(NAME, (dict,), options),
                hint=Phrase(
                    _("Write %(setting)s = {...} with any of: %(options)s."),
                    setting=NAME,
                    options=", ".join(sorted(OPTIONS)),
                ),
                id="sessionstores.E001",
            )
        ]
    unknown = sorted(options.keys() - OPTIONS, key=str)
    messages: list[checks.CheckMessage] = [_unknown_option(name) for name in unknown]
    for name in sorted(OPTIONS & options.keys()):
        try:
            getattr(conf.settings, name)
        except ImproperlyConfigured as error:
            messages.append(
                checks.Error(
                    message_of(error), hint=getattr(error, "hint", None), id="sessionstores.E003"
                )
            )
    return messages


def _unknown_option(name: object) -> checks.Error:
    return checks.Error(
        Phrase(_("%(option)s is not an option."), option=f"{NAME}[{name!r}]"),
        hint=conf.did_you_mean(str(name).upper(), OPTIONS)
        or Phrase(_("The options are: %(options)s."), options=", ".join(sorted(OPTIONS))),
        id="sessionstores.E002",
    )


@checks.register
def check_django_settings(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check the settings of Django that every engine uses, and Django does not check."""
    messages: list[checks.CheckMessage] = []
    try:
        conf.cookie_age()
    except ImproperlyConfigured as error:
        messages.append(
            checks.Error(
                message_of(error),
                hint=Phrase(
                    _("Write a number of seconds: %(example)s."),
                    example=f"SESSION_COOKIE_AGE = {60 * 60 * 24 * 14}",
                ),
                id="sessionstores.E024",
            )
        )
    try:
        conf.serializer()
    except ImproperlyConfigured as error:
        messages.append(
            checks.Error(
                message_of(error),
                hint=Phrase(
                    _(
                        "Correct the path, or remove SESSION_SERIALIZER to use the serializer of "
                        "the package."
                    )
                ),
                id="sessionstores.E025",
            )
        )
    return messages


@checks.register
def check_merge_functions(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the functions in ``MERGE`` can be imported and called."""
    try:
        functions = conf.merge_functions()
    except ImproperlyConfigured:
        return []  # check_settings reports it.
    except ImportError as error:
        problem = Phrase(
            _("%(setting)s names something that cannot be imported: %(error)s."),
            setting=full_name("MERGE"),
            error=str(error),
        )
    else:
        odd = [key for key, function in functions.items() if not callable(function)]
        if not odd:
            return []
        problem = Phrase(
            _("%(setting)s names something that is not a function, for: %(keys)s."),
            setting=full_name("MERGE"),
            keys=", ".join(map(repr, odd)),
        )
    return [
        checks.Error(
            problem,
            hint=Phrase(
                _("Give the dotted path of a function of three arguments: base, mine, theirs.")
            ),
            id="sessionstores.E004",
        )
    ]


@checks.register
def check_unused_options(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that ``SESSION_ENGINE`` is an engine that uses the options in ``SESSIONSTORES``."""
    options = getattr(django_settings, NAME, None)
    if not options or not isinstance(options, dict):
        return []
    # An engine that cannot be imported may be one of this package.
    engine = if_valid(lambda: conf.session_store(django_settings.SESSION_ENGINE))
    if engine is None or if_valid(lambda: configured_storage() is None) is not True:
        return []
    used = {"COOKIE_PARTITIONED"} if has_package_middleware() else set()
    unused = sorted(options.keys() & OPTIONS - used)
    if not unused:
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "%(setting)s has options for the engines of django_sessionstores, but "
                    "SESSION_ENGINE is %(engine)s: %(options)s."
                ),
                setting=NAME,
                engine=repr(django_settings.SESSION_ENGINE),
                options=", ".join(unused),
            ),
            hint=Phrase(
                _("Set SESSION_ENGINE to an engine of the package, or remove the options.")
            ),
            id="sessionstores.W023",
        )
    ]
