"""Running the scripts on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from ...core.flow import Call, Flow
from ...exceptions import StorageUnavailable
from .scripts import Script

Evaluation = tuple[Script, tuple[bytes, ...], tuple[Any, ...]]
"""A script, its keys and its arguments."""


class ScriptRunner:
    """The base class of a server, which implements ``ask`` and ``ask_all``."""

    def evaluate(self, script: Script, keys: tuple[bytes, ...], *arguments: Any) -> Flow[Any]:
        """Return what a script returns, in one round trip if the server knows the script."""
        rest = (len(keys), *keys, *arguments)
        try:
            return (yield Call(self, "ask", ("EVALSHA", script.sha, *rest)))
        except StorageUnavailable as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
        # The server is new, or was told to forget its scripts. This makes it know the script.
        return (yield Call(self, "ask", ("EVAL", script.text, *rest)))

    def evaluate_all(self, calls: Sequence[Evaluation]) -> Flow[list[Any]]:
        """Return what several scripts return, in one round trip if the server knows them."""
        if len(calls) == 1:
            script, keys, arguments = calls[0]
            return [(yield from self.evaluate(script, keys, *arguments))]
        answers = yield from self._send(calls, "EVALSHA")
        # Of the nodes of a cluster, some may know a script. What they have done is not done again.
        unknown = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = yield from self._send([calls[number] for number in unknown], "EVAL")
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        return answers

    def _send(self, calls: Sequence[Evaluation], name: str) -> Flow[list[Any]]:
        commands = [
            (name, script.text if name == "EVAL" else script.sha, len(keys), *keys, *arguments)
            for script, keys, arguments in calls
        ]
        answers: list[Any] = yield Call(self, "ask_all", (commands,))
        return answers
