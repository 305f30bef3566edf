"""Running cases and their results."""

from __future__ import annotations

import enum
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.test import override_settings

from ..conformance.neutral_settings import neutral_settings
from .backend import Backend
from .case import Case, DoesNotApply, Failed
from .limits import TIME_LIMIT, TimeOver, time_limit
from .site import URLCONF
from .trial import Trial
from .users import UsersNotMade

SITE: Final = "django_sessionstores.testing"
"""The name of the site of the command: what it does to sessions of its users must not happen to
those of real users, whose sessions may be in the same store under the same primary keys."""


class Outcome(enum.Enum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    DOES_NOT_APPLY = "does not apply"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Result:
    """The result of one case."""

    case: Case
    outcome: Outcome
    detail: str = ""
    """The behaviour that was seen, or the reason why the case does not apply."""
    error: BaseException | None = None
    """The error that was raised, if the case has failed with one."""


def run_cases(
    backend: Backend, cases: Iterable[Case], seconds: float = TIME_LIMIT
) -> Iterator[Result]:
    """Hold a backend to cases, one after another, each for so many seconds at most."""
    for case in cases:
        with settings_of(backend):
            # A context of its own, in which nothing is known of the requests of other cases.
            yield copy_context().run(_run, backend, case, seconds)


def _run(backend: Backend, case: Case, seconds: float) -> Result:
    trial = Trial(backend)
    try:
        with time_limit(seconds):
            return _result(backend, case, trial)
    except TimeOver:
        return Result(case, Outcome.FAILED, f"It had not ended after {seconds} seconds.")
    finally:
        try:
            with time_limit(seconds):
                trial.clean_up()
        except TimeOver:
            # It would not end after the other cases, either.
            backend.removes = False


def _result(backend: Backend, case: Case, trial: Trial) -> Result:
    try:
        for need in case.needs:
            if reason := backend.lack(need):
                return Result(case, Outcome.DOES_NOT_APPLY, reason)
        case.check(trial)
    except DoesNotApply as reason:
        return Result(case, Outcome.DOES_NOT_APPLY, str(reason))
    except UsersNotMade as reason:
        return Result(case, Outcome.NOT_RUN, str(reason), reason)
    except Failed as seen:
        return Result(case, Outcome.FAILED, str(seen))
    except (KeyboardInterrupt, TimeOver):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever is raised is a result
        # The message of an error may contain a session key or session data.
        return Result(case, Outcome.FAILED, f"{type(error).__name__} was raised.", error)
    return Result(case, Outcome.PASSED)


@contextmanager
def settings_of(backend: Backend) -> Iterator[None]:
    """Make a backend the one of the project, with the default lifetime of sessions.

    Logs and warnings are left out, because those of some backends contain session keys.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    changes = {"SESSION_ENGINE": backend.engine, **neutral_settings(SITE=SITE)}
    if not hasattr(settings, "ROOT_URLCONF"):
        changes["ROOT_URLCONF"] = URLCONF
    try:
        with warnings.catch_warnings(action="ignore"), override_settings(**changes):
            yield
    finally:
        logging.disable(disabled)
