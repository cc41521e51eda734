"""How a long measurement in stages speaks: a bar on a terminal, lines elsewhere, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from fieldforge.apps.fit.progress import Speaker, clock


class Stages(Speaker):
    """Says what is being done, how far it is and how long it will take; a context manager.

    Args:
        style: "auto", "json" or "quiet".
        n_stages: how many there will be.
    """

    def __init__(self, style: str, n_stages: int) -> None:
        super().__init__(style, "", is_transient=True)
        self.n_stages, self.number = n_stages, 0

    def stage(self, name: str) -> Callable[[float], None]:
        """Begin the next one; gives what is told the share of it that is done."""
        self.number += 1
        begun, title = time.perf_counter(), f"{self.number}/{self.n_stages} {name}"
        said = [begun]

        def observe(share: float) -> None:
            now = time.perf_counter()
            left = (now - begun) * (1 - share) / share if share > 0 else None
            text = f"{share:.0%}" + ("" if left is None or share >= 1 else f"  {clock(left)} left")
            if self._bar:
                self._bar.update(self._task, description=title, total=1.0, completed=share, text=text)
            elif now - said[0] >= 10 and self.style != "quiet":
                said[0] = now
                row = {"event": "progress", "stage": name, "number": self.number, "n_stages": self.n_stages,
                       "share": round(share, 4), "seconds": round(now - begun, 1)}  # fmt: skip
                row |= {} if left is None else {"seconds_left": round(left, 1)}
                if self.style == "json":
                    print(json.dumps(row), flush=True)
                else:
                    print(f"{title}  {text}", file=sys.stderr, flush=True)

        observe(0.0)
        if self.style == "auto" and not self._bar:
            print(title, file=sys.stderr, flush=True)
        elif self.style == "json":
            print(json.dumps({"event": "stage", "stage": name, "number": self.number, "n_stages": self.n_stages}),
                  flush=True)  # fmt: skip
        return observe


def counted(observe: Callable[[float], None], total: int) -> Callable[[int], None]:
    """From shares to counts: told how many more of `total` are done."""
    done = [0]

    def more(n: int) -> None:
        done[0] += n
        observe(done[0] / max(1, total))

    return more
