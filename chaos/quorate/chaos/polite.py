"""Ending politely: a program that made keys and processes cleans up however it is asked to stop."""

from __future__ import annotations

import signal
from typing import Final, Self

INTERRUPTED: Final = 130
POLITE_ENDS: Final = (signal.SIGTERM, signal.SIGHUP)
"""Treated like Ctrl-C: every process is ended and what was made, private keys too, is removed."""


class PoliteEnd:
    """Turns the first polite signal into KeyboardInterrupt, for as long as it is entered.

    Later ones change nothing: a closing terminal sends several, and none may break the cleaning up.
    """

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in POLITE_ENDS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means to stay
                self._former[number] = signal.signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _end(self, _number: int, _frame: object) -> None:
        if not self.asked:
            self.asked = True
            raise KeyboardInterrupt
