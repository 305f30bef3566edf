"""A command line says once why a store fails: in its own words, without a line of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError

from ..exceptions import StorageUnavailable
from ..storages.outage_log import logger


class _HeldBack(logging.Filter):
    """Holds back the lines that say why an outage has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, logging.LogRecord] = {}
        """By the reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        (reason, *_) = record.args if isinstance(record.args, tuple) and record.args else [None]
        if not isinstance(reason, StorageUnavailable):
            return True
        self.records[str(reason)] = record
        return False


@contextmanager
def outages_reported_once(
    command: BaseCommand, *, reports_all: bool = False
) -> Iterator[list[str]]:
    """Log the outages that the error of a command does not name, when the command has ended.

    Yields a list for what its output says of them. With ``reports_all``, it names all of them. If a
    process that lives longer calls the command, its log is about more than the command, and has all
    lines at once.
    """
    held, reported = _HeldBack(), list[str]()
    if not command._called_from_command_line:  # type: ignore[attr-defined]
        yield reported
        return
    logger.addFilter(held)
    try:
        yield reported
    except CommandError as error:
        reported.append(str(error))
        raise
    finally:
        logger.removeFilter(held)
        for reason, record in held.records.items():
            if not (reports_all or any(reason in text for text in reported)):
                logger.handle(record)
