"""What a person sees while a command works: progress, tables and remarks, all on stderr."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.status import Status
from rich.text import Text

from onnxgrow.cli.streams import complain, printable, silence

__all__ = ["Screen"]

PATIENCE = 10.0
"""Seconds after which a step is worth a line where there is no terminal."""
REDRAW = 0.1
"""Seconds between two states of a progress bar."""
LOG_WIDTH = 120
"""Columns where there is no terminal to ask."""

STEPS = {
    "accounting": "accounting for every tensor",
    "certificate": "proving that the function is the same",
    "float64": "comparing in float64",
    "runtime": "comparing in ONNX Runtime",
    "alive": "checking that the new channels can learn",
}
"""What the library calls its steps, in words."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence: who reads the tables has no say in the result."""
        self.quiet = True
        silence(sys.stderr)


class Screen:
    """Stderr for people. On a terminal steps are a spinner; elsewhere a step gets a line when it takes long.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = _Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        if not self._console.is_terminal and "COLUMNS" not in os.environ:
            self._console.width = LOG_WIDTH
        self._status: Status | None = None
        self._bar: Progress | None = None
        self._timer: threading.Timer | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.rest()

    def step(self, name: str) -> None:
        """Say what is being done from now on."""
        if self.quiet:
            return
        whole, colon, part = name.rpartition(": ")  # part of a longer piece of work
        text = printable(whole + colon + STEPS.get(part, part))
        if self._bar is not None:
            self.rest()
        if self._console.is_terminal:
            if self._status is None:
                # A spinner of ASCII characters works on every terminal.
                self._status = self._console.status(Text(text), spinner="line")
                self._status.start()
            else:
                self._status.update(Text(text))
            return
        self.rest()
        self._timer = threading.Timer(PATIENCE, self._remark, (text,))
        self._timer.daemon = True
        self._timer.start()

    def rest(self) -> None:
        """No step is being done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def progress(self, name: str) -> Callable[[int, int], None]:
        """Something to tell (bytes done, bytes in all) of a step: a bar with the time left, or a line now and then."""
        if self.quiet:
            return lambda done, total: None
        return (_Bar if self._console.is_terminal else _Lines)(self, printable(STEPS.get(name, name)))

    def bar(self, name: str, total: int) -> Progress:
        """A progress bar in bytes, in place of whatever was shown of the step before."""
        self.rest()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.start()
        self._bar.add_task(name, total=total)
        return self._bar

    def remark(self, text: str) -> None:
        """A line about a step that is still being done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._remark(text)

    def show(self, what: RenderableType) -> None:
        """Print a table."""
        self.rest()
        self._print(what)

    def line(self, text: str, style: str = "") -> None:
        """Print a line; it is not broken where the terminal ends."""
        self.rest()
        self._print(Text(printable(text), style=style), soft_wrap=True)

    def _print(self, what: RenderableType, **layout: Any) -> None:
        try:
            self._console.print(what, **layout)
        except (OSError, ValueError):
            self._console.on_broken_pipe()

    def _remark(self, text: str) -> None:
        complain(f"{text} ... ({time.monotonic() - self._started:.0f} s so far)")


class _Bar:
    """Progress on a terminal; the bar appears with the first word of it."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen, self._name = screen, name
        self._bar: Progress | None = None
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now < self._next:
            return
        self._next = now + REDRAW
        try:
            if self._bar is None:
                self._bar = self._screen.bar(self._name, total)
            self._bar.update(self._bar.task_ids[0], completed=done)
            if done >= total:
                # What follows is making it durable.
                self._screen.step(self._name)
        except (OSError, ValueError):  # nobody reads this any more, which is no reason to stop writing
            self._screen.quiet = True
            self._next = math.inf


class _Lines:
    """Progress elsewhere: a line when it takes long."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen, self._name = screen, name
        self._started = time.monotonic()
        self._next = self._started + PATIENCE

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next or not done:
            return
        self._next = now + PATIENCE
        left = (now - self._started) / done * (total - done)
        self._screen.remark(f"{self._name} {done / 1e9:.2f} of {total / 1e9:.2f} GB, {left:.0f} s left")
