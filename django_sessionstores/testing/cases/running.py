"""Running cases and their results."""

from __future__ import annotations

import enum
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from django.test import override_settings

from ..conformance.neutral_settings import neutral_settings
from .backend import Backend
from .case import Case, DoesNotApply, Failed
from .trial import Trial

TIME_LIMIT: Final = 30
"""The seconds after which a case that has not ended has failed."""


class Outcome(enum.Enum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    DOES_NOT_APPLY = "does not apply"


@dataclass(frozen=True)
class Result:
    """The result of one case."""

    case: Case
    outcome: Outcome
    detail: str = ""
    """The behaviour that was seen, or the reason why the case does not apply."""
    error: BaseException | None = None
    """The error that was raised, if the case has failed with one."""


def run_cases(backend: Backend, cases: Iterable[Case]) -> Iterator[Result]:
    """Hold a backend to cases, one after another."""
    for case in cases:
        with settings_of(backend):
            # A context of its own, in which nothing is known of the requests of other cases.
            yield copy_context().run(_run, backend, case)


def _run(backend: Backend, case: Case) -> Result:
    trial = Trial(backend)
    try:
        for need in case.needs:
            if reason := backend.lack(need):
                return Result(case, Outcome.DOES_NOT_APPLY, reason)
        with _time_limit():
            case.check(trial)
    except DoesNotApply as reason:
        return Result(case, Outcome.DOES_NOT_APPLY, str(reason))
    except _TimeOver:
        return Result(case, Outcome.FAILED, f"It had not ended after {TIME_LIMIT} seconds.")
    except Failed as seen:
        return Result(case, Outcome.FAILED, str(seen))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever is raised is a result
        # The message of an error may contain a session key or session data.
        return Result(case, Outcome.FAILED, f"{type(error).__name__} was raised.", error)
    else:
        return Result(case, Outcome.PASSED)
    finally:
        trial.clean_up()


class _TimeOver(BaseException):
    """A case takes too long. Backends that catch each ``Exception`` must not catch this."""


@contextmanager
def _time_limit() -> Iterator[None]:
    """Stop a case that does not end, such as one in which a backend draws new keys for ever.

    Only the main thread can be stopped, and not on Windows.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def stop(*_: object) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def settings_of(backend: Backend) -> Iterator[None]:
    """Make a backend the one of the project, with the default lifetime of sessions.

    Logs and warnings are left out, because those of some backends contain session keys.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            override_settings(SESSION_ENGINE=backend.engine, **neutral_settings()),
        ):
            yield
    finally:
        logging.disable(disabled)
