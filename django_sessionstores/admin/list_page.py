"""The page that lists sessions, with a search, filters and actions."""

from __future__ import annotations

from typing import NamedTuple

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from ..core.phrases import format_number
from ..core.records import is_session_id
from .filters import counts
from .listing import Listed, is_in_order_of_ids, list_sessions
from .page import Page
from .search import FACETS, WITHIN, Search, may_be_a_key, search
from .session_row import Column, columns


class Choice(NamedTuple):
    """An option of a filter, as a link."""

    label: str | Promise
    url: str
    is_selected: bool
    number: int | None
    """How many sessions it has; ``None`` if they were not counted."""


class Heading(NamedTuple):
    """The heading of a column."""

    column: Column
    url: str
    """The address of the list that is sorted by this column; empty if it cannot be."""
    direction: str
    """``ascending`` or ``descending`` if the list is sorted by this column; empty otherwise."""


def list_page(page: Page) -> HttpResponse:
    """Return a page of the sessions that match the search and the filters."""
    request = page.request
    text = request.GET.get("q", "").strip()
    if may_be_a_key(text):
        # Neither the page nor its address may repeat it.
        message = _("That may be a session key, which is a secret. Search for a session's id.")
        page.message(message, messages.WARNING)
        return HttpResponseRedirect(page.url("changelist"))
    if is_session_id(text.lower()):
        return HttpResponseRedirect(page.url("change", text.lower()))
    wanted, listed = search(page.inventory, request.GET, page.now), Listed()
    if not wanted.problem:
        by_name = {each.name: each for each in columns() if each.sort_key is not None}
        listed = list_sessions(page, wanted, by_name)
        wanted.problem = listed.problem
    can_end = page.model_admin.has_end_permission(request)
    is_ended_with = [not each.is_own and not each.info.is_expired for each in listed.rows]
    return page.render(
        "list",
        title=capfirst(page.model_admin.opts.verbose_name_plural),
        search=wanted,
        query=text,
        listed=listed,
        total_text=_total_text(listed),
        sessions=listed.rows,
        number=len(listed.rows),
        headings=_headings(page, wanted, listed),
        order_note=_order_note(page, listed),
        first_url=(
            "" if listed.number == 1 else page.url("changelist", **wanted.parameters, **wanted.view)
        ),
        filters=_filters(page, wanted, listed),
        facets_url=_facets_url(page, wanted),
        has_facets=FACETS in wanted.view,
        clear_url=_clear_url(page, wanted),
        kept=[*((each.name, each.value) for each in wanted.filters), *wanted.view.items()],
        end_user_url=page.end_user_url(wanted.user),
        user_link=page.user_url(wanted.user),
        choice_urls=[
            (name, page.url("changelist", user=user_id)) for user_id, name in wanted.choices.items()
        ],
        selection_text=_("%(sel)s of %(cnt)s selected"),
        action_url=page.url_from_list("action"),
        can_end_any=can_end and any(is_ended_with),
        can_export=page.model_admin.has_export_permission(request),
    )


def _total_text(listed: Listed) -> str:
    return "" if listed.total is None else format_number(listed.total)


# --- Order ---------------------------------------------------------------------------------


def _headings(page: Page, wanted: Search, listed: Listed) -> list[Heading]:
    order = wanted.view.get("o", "") if listed.is_sorted else ""
    found = []
    for column in columns():
        direction = ""
        if column.name and order.removeprefix("-") == column.name:
            direction = "descending" if order.startswith("-") else "ascending"
        elif column.name == "expires" and not order and not is_in_order_of_ids(page):
            direction = "descending"
        url = ""
        if column.sort_key is not None and listed.can_sort:
            opposite = f"-{column.name}" if direction == "ascending" else column.name
            view = {**wanted.view, "o": opposite}
            url = page.url("changelist", **wanted.parameters, **view)
        found.append(Heading(column, url, direction))
    return found


def _order_note(page: Page, listed: Listed) -> str:
    """Return in which order the store lists sessions, and how many can be sorted."""
    if listed.is_sorted or not listed.rows:
        return ""
    by_id, by_expiry = _("In the order of their ids."), _("The last to expire come first.")
    order = by_id if is_in_order_of_ids(page) else by_expiry
    if listed.can_sort:
        return order
    limit = _(
        "Up to %(number)s sessions can be sorted by a column. Search for a user to sort the "
        "sessions of that user."
    )
    return f"{order} {limit % {'number': format_number(WITHIN)}}"


# --- Filters -------------------------------------------------------------------------------


def _filters(page: Page, wanted: Search, listed: Listed) -> list[tuple[str, str, list[Choice]]]:
    """Return the name, the title and the options of each filter."""
    has_counts = FACETS in wanted.view and listed.everything is not None
    numbers = counts(wanted.selected, listed.everything or ()) if has_counts else {}
    seen = [each.info for each in listed.rows]
    # What only sessions can tell, such as their devices, is that of the sessions on the page.
    of_sessions = listed.everything if listed.everything is not None else seen
    are_of_page = listed.everything is None and bool(listed.previous_url or listed.next_url)
    found = []
    for each in wanted.selected:
        options = each.options_for(of_sessions)
        choices = [
            Choice(
                label,
                _url_with(page, wanted, each.name, value),
                value == each.value,
                numbers[each.name].get(value, 0) if has_counts else None,
            )
            for value, label in options.items()
        ]
        is_of_page = are_of_page and each.describe is not None
        title = _("%(filter)s, on this page") % {"filter": each.title} if is_of_page else each.title
        found.append((each.name, title, choices))
    return found


def _url_with(page: Page, wanted: Search, name: str, value: str) -> str:
    """Return the address of the list with another option of a filter."""
    parameters = {key: text for key, text in wanted.parameters.items() if key != name}
    if value:
        parameters[name] = value
    return page.url("changelist", **parameters, **wanted.view)


def _facets_url(page: Page, wanted: Search) -> str:
    """Return the address of the list with counts beside the filters, or without them."""
    view = {name: value for name, value in wanted.view.items() if name != FACETS}
    if FACETS not in wanted.view:
        view[FACETS] = "True"
    return page.url("changelist", **wanted.parameters, **view)


def _clear_url(page: Page, wanted: Search) -> str:
    """Return the address of the list without filters; empty if none is selected."""
    if not wanted.filters:
        return ""
    names = {each.name for each in wanted.filters}
    parameters = {name: text for name, text in wanted.parameters.items() if name not in names}
    return page.url("changelist", **parameters, **wanted.view)
