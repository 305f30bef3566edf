"""Views: an operation, what the view does after it, and the transaction around both."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any

from django.http import Http404, HttpResponse

from . import language
from .history import Request
from .operations import OPERATIONS, Do, Steps, View, put


class Parsed:
    """An operation with its arguments, what the view does at the end, and its transaction."""

    def __init__(self, text: str) -> None:
        text, _, self.wrap = text.partition("@")
        name, *self._last = text.split("+")
        name, *self._args = name.split(".")
        if name not in OPERATIONS:
            raise ValueError(f"There is no operation {name!r}. There are: {', '.join(OPERATIONS)}.")
        _check_arguments(name, self._args)
        for each in self._last:
            language.check_word(f"+{each}", language.ENDS, "an end of a view")
        if self.wrap:
            language.check_word(f"@{self.wrap}", language.TRANSACTIONS, "a transaction")
        self.name = name

    def check(self, who: str, driver: str) -> None:
        """Raise ``ValueError`` if a browser or an operator cannot make this request on a site with
        views of this kind."""
        if self.wrap and driver == "async":
            raise ValueError(f"'@{self.wrap}' needs sync views, and this site has async ones.")
        if who != "o":
            language.check_argument("BROWSER", who)
            return
        language.check_word(self.name, language.OPERATOR, "a call of an operator")
        if self._last:
            raise ValueError(f"'+{self._last[0]}' is for views of browsers, not for an operator.")
        if self.wrap == "again":
            raise ValueError("'@again' sets a key of the session, which an operator does not have.")

    def run(self, view: View) -> HttpResponse:
        """Run the operation by blocking calls, and return the response."""
        request = view.request
        if not self.wrap:
            return self._answer(view)
        request.is_in_transaction = view.world.config.hides_writes
        # This must be the first callback of the commit: others may run before the later ones.
        view.world.connection.callbacks.append(lambda: _note_commit(request))
        try:
            if self.wrap in {"manual", "undone"}:
                return self._run_without_autocommit(view)
            return self._run_in_blocks(view)
        except BaseException:
            request.was_rolled_back = True
            raise
        finally:
            request.is_in_transaction = False

    def _answer(self, view: View) -> HttpResponse:
        response: HttpResponse = _run(self._steps(view))
        return response

    def _run_without_autocommit(self, view: View) -> HttpResponse:
        connection = view.world.connection
        connection.autocommit = False
        try:
            response = self._answer(view)
            view.request.was_rolled_back = self.wrap == "undone"
            (connection.rollback if self.wrap == "undone" else connection.commit)()
        finally:
            connection.rollback()
            connection.autocommit = True
        return response

    def _run_in_blocks(self, view: View) -> HttpResponse:
        connection = view.world.connection
        depth = 2 if self.wrap == "savepoint" else 1
        for _ in range(depth):
            connection.begin()
        try:
            response = self._answer(view)
        except BaseException:
            for _ in range(depth):
                connection.end(commit=False)
            raise
        view.request.was_rolled_back = self.wrap in {"rollback", "savepoint", "again"}
        connection.needs_rollback = self.wrap in {"rollback", "again"}
        connection.end(commit=self.wrap != "savepoint")
        if depth > 1:
            connection.end(commit=True)
        if self.wrap == "again":
            _run(put(view, "c"))
        return response

    async def arun(self, view: View) -> HttpResponse:
        """Run the operation by awaited calls, without a transaction: async Django has none."""
        response: HttpResponse = await _arun(self._steps(view))
        return response

    def _steps(self, view: View) -> Steps:
        yield from OPERATIONS[self.name](view, *self._args)
        for each in self._last:
            if each == "save":
                yield Do(view.session, "save")
            elif each == "404":
                raise Http404
            else:
                raise ValueError("a mistake of the view's own")
        # A view also does other work, which takes time.
        view.world.scheduler.point("the view ends")
        return HttpResponse()


def _check_arguments(name: str, values: Sequence[str]) -> None:
    """Raise ``ValueError`` if an operation does not accept these arguments."""
    try:
        bound = signature(OPERATIONS[name]).bind(None, *values)
    except TypeError:
        raise ValueError(f"The operation {name!r} is written {spelling(name)!r}.") from None
    for argument, value in bound.arguments.items():
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None:  # The view itself.
                language.check_argument(_word_of(argument), each)


def spelling(name: str) -> str:
    """Return how an operation is written with its arguments, such as ``login.PK[.ORDER]``."""
    _view, *arguments = signature(OPERATIONS[name]).parameters.values()
    return name + "".join(
        f"[.{_word_of(each.name)}...]"
        if each.kind is Parameter.VAR_POSITIONAL
        else f".{_word_of(each.name)}"
        if each.default is Parameter.empty
        else f"[.{_word_of(each.name)}]"
        for each in arguments
    )


def _word_of(argument: str) -> str:
    return "KEY" if argument == "keys" else argument.upper()


def _note_commit(request: Request) -> None:
    request.is_in_transaction = False


@cache
def operation(text: str) -> Parsed:
    """Return the operation that a text names; raise ``ValueError`` if there is none."""
    return Parsed(text)


def _run(steps: Steps) -> Any:
    try:
        do = next(steps)
        while True:
            try:
                result = getattr(do.target, do.name)(*do.args, **(do.keywords or {}))
            except Exception as error:  # noqa: BLE001 - the operation decides
                do = steps.throw(error)
            else:
                do = steps.send(result)
    except StopIteration as stop:
        return stop.value


async def _arun(steps: Steps) -> Any:
    try:
        do = next(steps)
        while True:
            try:
                method = getattr(do.target, f"a{do.name}")
                result = await method(*do.args, **(do.keywords or {}))
            except Exception as error:  # noqa: BLE001 - the operation decides
                do = steps.throw(error)
            else:
                do = steps.send(result)
    except StopIteration as stop:
        return stop.value
