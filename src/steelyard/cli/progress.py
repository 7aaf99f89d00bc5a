"""Steps with their times, told on stderr while they happen."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from steelyard.cli.outcome import say


@dataclass(slots=True)
class Steps:
    """Tells each step when it is done, with how long it took; as sentences, or as JSON lines."""

    as_json: bool = False
    began_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside; say it when it is done."""
        began_s = time.monotonic()
        yield
        self.tell(name, took_s=time.monotonic() - began_s)

    def tell(self, what: str, *, took_s: float | None = None) -> None:
        """Say one thing."""
        if self.as_json:
            line: dict[str, object] = {"event": "up.step", "step": what}
            if took_s is not None:
                line["took_ms"] = round(took_s * 1000)
            say(json.dumps(line, ensure_ascii=False))
        elif took_s is None:
            say(f"  {what}")
        else:
            say(f"  {what:<52} {took_s:6.2f} s")

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step."""
        return time.monotonic() - self.began_s


@contextmanager
def progress_bar(title: str, *, hidden: bool) -> Iterator[Any]:
    """Show a bar with count, share and rate on stderr; yields `move(step, done, total)`.

    Nothing is drawn where stderr is not a screen.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=hidden or not console.is_terminal,
        transient=False,
    )
    began_s = time.monotonic()
    with bar:
        task = bar.add_task(title, total=None, rate="")

        def move(step: str, done: int, total: int) -> None:
            rate = done / max(time.monotonic() - began_s, 0.001)
            bar.update(task, description=step, completed=done, total=total, rate=f"{rate:,.0f}/s")

        yield move
