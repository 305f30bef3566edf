"""Setting up the simulated site: its settings, its clock, and the patches that it needs."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.test import override_settings

from . import internals, recording, users
from .configuration import START, Config, failing_merges
from .internals import signals
from .scheduler import PAUSE
from .world import SIGNALS, World


@contextmanager
def site(config: Config) -> Iterator[Callable[[], World]]:
    """Set the site up; yield a function that makes a new world in it."""
    current: list[World] = []

    def make() -> World:
        world = World(config)
        current[:] = [world]
        recording.run_in(world)
        users.find[:] = [world.find_user]
        failing_merges.clear()
        keys.seed(0)
        _set_secret_keys(config.settings()["SECRET_KEY"], [])
        internals.forget_storages()
        return world

    def note_signal(signal: Any, **facts: Any) -> None:
        current[0].note_signal(signal, **facts)

    keys = random.Random(0)  # noqa: S311 - must be repeatable, not secret
    disabled = logging.root.manager.disable
    with ExitStack() as stack:
        stack.enter_context(override_settings(**config.settings()))
        # Objects of an earlier site that are not collected yet may ask for the time, too.
        stack.enter_context(internals.clock(lambda: current[0].now() if current else START))
        stack.enter_context(internals.pauses(lambda: _pause(current[0])))
        stack.enter_context(internals.keys_from(keys))
        stack.enter_context(internals.no_event_loop())
        for name in SIGNALS:
            signal = getattr(signals, name)
            signal.connect(note_signal, weak=False)
            stack.callback(signal.disconnect, note_signal)
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, disabled)
        stack.callback(recording.run_in, None)
        yield make
        internals.forget_storages()


def _pause(world: World) -> None:
    world.scheduler.point(PAUSE)


def rotate_secret_key() -> None:
    """Give the site another ``SECRET_KEY``, and make the previous one a fallback."""
    before = django_settings.SECRET_KEY
    _set_secret_keys(before + "+", [before, *django_settings.SECRET_KEY_FALLBACKS])


def _set_secret_keys(key: str, fallbacks: list[Any]) -> None:
    if key == django_settings.SECRET_KEY:
        return
    django_settings.SECRET_KEY = key
    django_settings.SECRET_KEY_FALLBACKS = fallbacks
    for name in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        setting_changed.send(World, setting=name, value=None, enter=True)
