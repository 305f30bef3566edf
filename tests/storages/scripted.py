"""Storages that answer as a script says, to try a storage around them on each answer they may give.

`tree` runs a call once for each sequence of answers, and returns as text what the call has asked
for, what it was answered, and what it has returned.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final
from unittest import mock

import msgspec

from django_sessionstores.core import clock
from django_sessionstores.core.flow import Pause
from django_sessionstores.core.records import Record, State
from django_sessionstores.migration.sources import PreviousSession
from django_sessionstores.storages import copies
from django_sessionstores.storages.base import (
    CacheStorage,
    Conflict,
    Found,
    Gone,
    Page,
    Taken,
    Updated,
)
from django_sessionstores.storages.contract import TWINS
from django_sessionstores.storages.limited import _lock_of
from django_sessionstores.storages.registered.entries import Handle
from django_sessionstores.storages.registered.journal import Journal

# Scripts --------------------------------------------------------------------------------------

Answers = Mapping[str, tuple[Any, ...]]
"""The answers that a method may give, by its name. An exception is raised, and a function is called
with the arguments. The first one may be given any number of times, and each of the others once in a
run, so that each call comes to an end."""


class Script:
    """The answers of all storages in one run, and what the storages were asked for."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        self.steps: list[tuple[str, int, int, str]] = []
        """Each call, the place of its answer, the number of possible answers, and the answer."""
        self.waiting: list[Callable[[], object]] = []
        """What is to be done when the transaction commits."""
        self._choices = choices
        self._given: set[tuple[str, str, int]] = set()
        self._kept: dict[tuple[str, str], Any] = {}

    def answer(self, part: str, name: str, args: tuple[Any, ...], answers: tuple[Any, ...]) -> Any:
        """Return the answer of a storage to a call, or raise it."""
        if name == "after_commit":
            self.waiting.append(args[0])
        if (part, name) in self._kept:
            return self._kept[part, name]
        free = [each for each in range(len(answers)) if (part, name, each) not in self._given]
        at = len(self.steps)
        choice = self._choices[at] if at < len(self._choices) else 0
        place = free[choice]
        if place:
            self._given.add((part, name, place))
        answer = answers[place]
        if callable(answer):
            answer = answer(*args)
        call = f"{part}.{name}({', '.join(map(show, args))})"
        self.steps.append((call, choice, len(free), show(answer)))
        if name == "in_transaction":
            self._kept[part, name] = answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def commit(self) -> None:
        """Do what was waiting for the commit; no transaction is open any more."""
        self._kept = dict.fromkeys(self._kept, False)
        for action in self.waiting:
            action()

    def pause(self, seconds: float) -> None:
        self.steps.append((f"pause({seconds:g})", 0, 1, ""))

    async def apause(self, seconds: float) -> None:
        self.pause(seconds)

    def following(self) -> tuple[int, ...] | None:
        """Return the choices of the next run; ``None`` after the last one."""
        choices = [(choice, number) for _, choice, number, _ in self.steps]
        while choices:
            choice, number = choices.pop()
            if choice + 1 < number:
                return (*(each for each, _ in choices), choice + 1)
        return None


class Scripted(CacheStorage):
    """A storage, or a previous backend, that answers from a script."""

    in_key = False

    def __init__(self, part: str, script: Script, answers: Answers, **traits: Any) -> None:
        self.part, self.script, self.answers = part, script, answers
        for name, value in traits.items():
            setattr(self, name, value)

    def describe(self) -> str:
        return self.part

    def mark(self, record: Record) -> bytes:
        return b"mark"

    def sites(self) -> tuple[int, ...]:
        return (SITE,)

    def ask(self, name: str, *args: Any) -> Any:
        return self.script.answer(self.part, name, args, self.answers[name])


def _blocking(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.ask(name, *args)


def _awaited(name: str) -> Callable[..., Any]:
    async def call(self: Scripted, *args: Any) -> Any:
        return self.ask(name, *args)

    return call


for _name in (*TWINS, "remove", "remove_id"):
    setattr(Scripted, _name, _blocking(_name))
    setattr(Scripted, "a" + _name, _awaited(_name))

# Records --------------------------------------------------------------------------------------

NOW: Final = 1_700_000_000_000
SITE: Final = 1
"""The mark of the site."""
SECONDS: Final = 1000.0
"""The moment of the monotonic clock."""
MINUTE: Final = 60_000


def _record(letter: str, **fields: Any) -> Record:
    values = {"id": letter * 40, "payload": b"data", "version": 5 << 32, "user_id": "7"}
    times = {"created": NOW, "last_activity": NOW, "expires": NOW + 60 * MINUTE}
    return Record(**{**values, **times, **fields})


BASE: Final = _record("a")
NEXT: Final = _record("a", payload=b"next", version=6 << 32)
NEWER: Final = _record("a", payload=b"newer", version=7 << 32, last_activity=NOW + 1)
OVER: Final = _record("a", payload=b"over", expires=NOW)
ENDED: Final = _record("a", payload=b"", state=State.ENDED)
LED: Final = _record("a", payload=bytes.fromhex("b" * 40), state=State.ROTATED)
OTHER: Final = _record("b", payload=b"other", version=8 << 32)


def _in_list(letter: str, **fields: Any) -> Record:
    return msgspec.structs.replace(OTHER, id=letter * 40, **fields)


LISTED: Final = (
    _in_list("c", created=NOW - 3),
    _in_list("d", created=NOW - 2),
    _in_list("e", created=NOW - 1, origin="d" * 40, last_activity=NOW + 1),
    _in_list("f", created=NOW - 4, expires=NOW),
)
"""Records of a list: of three sessions, the last of which has expired. The second one has got
another id."""
_NAMES: Final = {
    **dict(zip(("first", "second", "moved", "past"), LISTED, strict=True)),
    "base": BASE,
    "next": NEXT,
    "newer": NEWER,
    "over": OVER,
    "ended": ENDED,
    "led": LED,
    "other": OTHER,
    "lock": _lock_of("7", "", NOW),
}
"""The records of the trees, by their names. They have the id ``aa...``, except ``other``."""


def show(value: Any) -> str:
    """Return a short text for an argument or an answer."""
    match value:
        case Record():
            return _show_record(value)
        case Updated(record, key, evicted, is_provisional, is_rotated):
            flags = {"key": key, "provisional": is_provisional, "rotated": is_rotated}
            more = [name for name, flag in flags.items() if flag]
            more += [f"without {show(each)}" for each in evicted]
            return " ".join(["updated", show(record), *more])
        case Conflict(current):
            return f"conflict {show(current)}"
        case Gone() | Taken():
            return type(value).__name__.lower()
        case Found(record=record, key=key, is_provisional=is_provisional):
            flags = {"key": key, "provisional": is_provisional}
            more = [name for name, flag in flags.items() if flag]
            return " ".join(["found", show(record), *more])
        case PreviousSession(record=record):
            return f"previous {show(record)}"
        case Page(records, cursor):
            return f"page {' '.join(map(show, records))} {cursor!r}"
        case Exception():
            return type(value).__name__
        case bool() | None:
            return {True: "yes", False: "no"}.get(value, "none")
        case str():
            return f"{value[0]}..." if len(value) == 40 else repr(str(value))
        case int() if value > NOW // 2:
            return f"now{value - NOW:+}" if value != NOW else "now"
        case _ if callable(value):
            return "action"
    if isinstance(value, dict):
        return f"{{{', '.join(map(show, value.values()))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(show, value)))}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(show, value))})"
    return str(value)


def _show_record(record: Record) -> str:
    name, known = min(_NAMES.items(), key=lambda item: len(_changed(record, item[1])))
    fields = _changed(record, known)
    changes = [f"{field}={_show_field(field, getattr(record, field))}" for field in fields]
    return f"{name}[{', '.join(changes)}]" if changes else name


def _changed(record: Record, known: Record) -> list[str]:
    values = [
        (each, getattr(record, each), getattr(known, each)) for each in record.__struct_fields__
    ]
    return [each for each, one, other in values if one != other]


def _show_field(name: str, value: Any) -> str:
    if name == "version":
        return str(value >> 32)  # The other bits are random.
    if isinstance(value, State):
        return value.name.lower()
    if isinstance(value, Handle):
        return f"({show(value.inner)} {show(value.entry)} {show(value.known)})"
    if isinstance(value, bytes):
        return _show_payload(value)
    return show(value)


def _show_payload(payload: bytes) -> str:
    journal = Journal.unpack(payload)
    if journal is not None:
        saves = ", ".join(f"{version >> 32} {show(at)}" for version, at, _ in journal.saves)
        changes = ", ".join(
            f"{key.decode()} {each[0] >> 32}" for key, each in journal.changes.items()
        )
        return f"journal({saves}; {changes})"
    stored = msgspec.structs.replace(BASE, payload=payload)
    if (copy := copies.read_copy(stored, 0)) is not None:
        return f"copy of {show(copy.handle)}"
    if (mark := copies.read_mark(stored, 0)) is not None:
        return f"mark with a copy of {show(mark.handle)}" if mark.handle else "mark"
    return payload.hex()[:1] + "..." if len(payload) == 20 else repr(payload.decode("latin-1"))


# Trees ----------------------------------------------------------------------------------------

_Node = dict[str, Any]
"""Either a call, with a node for each answer; or what was returned, with ``None``."""


def tree(
    make: Callable[[Script], Any],
    name: str,
    *args: Any,
    awaited: bool = False,
    after: Callable[[Any], str] = lambda target: "",
) -> str:
    """Return what a method asks for, and returns, for each sequence of answers that it may get.

    ``make`` returns the object of the method, around storages with a script. Under each call are
    its answers, and under each answer is what follows it. Answers that are followed by the same are
    in one line. What is done when the transaction commits follows after "commit". ``after`` tells
    what else has changed in the object.
    """
    root: _Node = {}
    choices: tuple[int, ...] | None = ()
    while choices is not None:
        script = Script(choices)
        with (
            clock.use(now=lambda: NOW, monotonic=lambda: SECONDS),
            mock.patch.object(random, "uniform", lambda low, high: (low + high) / 2),
            mock.patch.multiple(Pause, sleep=script.pause, asleep=script.apause),
        ):
            target = make(script)
            result = _result(target, name, args, awaited)
            number = len(script.steps)
            script.commit()
            result += after(target)
        node = root
        for at, (call, _, _, answer) in enumerate(script.steps):
            if at == number:
                node = node.setdefault("commit", {}).setdefault("", {})
            node = node.setdefault(call, {}).setdefault(answer, {})
        node[f"=> {result}"] = None
        choices = script.following()
    return "\n".join(_lines(root)) + "\n"


def _result(target: Any, name: str, args: tuple[Any, ...], awaited: bool) -> str:
    try:
        if awaited:
            return show(asyncio.run(getattr(target, "a" + name)(*args)))
        return show(getattr(target, name)(*args))
    except Exception as error:  # noqa: BLE001 - that is an answer, too
        return f"raises {show(error)}"


def _lines(node: _Node) -> list[str]:
    ((call, answers),) = node.items()
    if answers is None:
        return [call]
    groups: dict[tuple[str, ...], list[str]] = {}
    for answer, following in answers.items():
        groups.setdefault(tuple(_lines(following)), []).append(answer)
    if call == "commit":
        ((lines, _),) = groups.items()
        return [call, *lines]
    if len(groups) == 1:
        ((lines, names),) = groups.items()
        return [f"{call}: {', '.join(names)}", *lines]
    result = [call]
    for lines, names in groups.items():
        head = f"    {', '.join(names)}"
        if len(lines) == 1:
            result.append(f"{head} {lines[0]}")
        else:
            result += [f"{head}:", *(f"        {line}" for line in lines)]
    return result
