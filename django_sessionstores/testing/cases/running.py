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

from django.test import override_settings

from ..conformance.neutral_settings import neutral_settings
from .backend import Backend
from .case import Case, DoesNotApply, Failed
from .trial import Trial


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


_PASSED: Final = (Outcome.PASSED, "")


def run_cases(backend: Backend, cases: Iterable[Case]) -> Iterator[Result]:
    """Hold a backend to cases, one after another."""
    for case in cases:
        with settings_of(backend):
            # A context of its own, in which nothing is known of the requests of other cases.
            yield Result(case, *copy_context().run(_run, backend, case))


def _run(backend: Backend, case: Case) -> tuple[Outcome, str]:
    trial = Trial(backend)
    try:
        for need in case.needs:
            if reason := backend.lack(need):
                return Outcome.DOES_NOT_APPLY, reason
        case.check(trial)
    except DoesNotApply as reason:
        return Outcome.DOES_NOT_APPLY, str(reason)
    except Failed as seen:
        return Outcome.FAILED, str(seen)
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a result
        # The message of an error may contain a session key or session data.
        return Outcome.FAILED, f"{type(error).__name__} was raised."
    else:
        return _PASSED
    finally:
        trial.clean_up()


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
