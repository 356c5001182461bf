"""The init, which sleeps when it is sent SIGUSR1: its boot clock is ahead then (`tests.sleep`)."""

from __future__ import annotations

import os
import signal
import sys

from tests.sleep import sleep_into

from quorate.runner import init

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: sleep_into(os.environ["SLEEP_INTO"]))
    sys.exit(init.main())
