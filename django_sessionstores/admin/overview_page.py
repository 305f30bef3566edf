"""The page with numbers and charts of all sessions, and with the state of their store."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import Error as DatabaseError
from django.http import HttpResponse
from django.utils.translation import gettext as _

from ..core.phrases import translated_message
from ..exceptions import CannotList, StorageUnavailable
from ..operations.doctor import (
    LEVELS,
    Finding,
    diagnose,
    finding_in_words,
    split_by_effect,
    summary,
)
from ..operations.overview import history, overview
from .page import Page


def overview_page(page: Page) -> HttpResponse:
    """Return the overview. What cannot be shown now is replaced by the reason."""
    inventory, now = page.inventory, page.now
    problem, figures = "", None
    try:
        figures = overview(inventory, now)
    except (CannotList, StorageUnavailable) as error:
        problem = translated_message(error)
    counted, statistics_problem = None, ""
    try:
        counted = history(now)
    except DatabaseError as error:
        statistics_problem = str(error)
    diagnosis = diagnose(inventory.storage)
    breaks, others = split_by_effect(diagnosis.findings)
    return page.render(
        "overview",
        title=_("Overview of sessions"),
        figures=figures,
        problem=problem,
        history=counted,
        statistics_problem=statistics_problem,
        facts={name: text.split("\n") for name, text in summary(diagnosis).items()},
        breaks=_in_words(breaks),
        others=_in_words(others),
        problems=sum(each.is_wrong for each in others),
        self_expiring=inventory.storage.self_expiring,
    )


def _in_words(findings: Sequence[Finding]) -> list[tuple[Finding, object, str]]:
    return [(each, LEVELS[each.level], finding_in_words(each)) for each in findings]
