"""Executes histories again, in a process of its own, and says what came of each.

    python -m tests.property.core.naive.again

Reads lines of `founders version is_small payload payload ...`, the payloads in hex, and writes for
each a hash of the whole state and of all entries.
"""

from __future__ import annotations

import sys

from tests.property.core.naive.sides import Setting, Sides, begun, rules_of


def line_of(sides: Sides) -> str:
    """A history, to be executed again. Its signatures have to be real."""
    setting = sides.setting
    assert not setting.is_cheap
    start = [str(setting.founders), str(setting.version), str(int(setting.is_small))]
    return " ".join([*start, *(payload.hex() for payload in sides.payloads)])


def executed(line: str) -> str:
    founders, version, is_small, *payloads = line.split()
    setting = Setting(int(founders), int(version), is_small == "1", is_cheap=False)
    ledger = begun(setting)
    with rules_of(setting):
        for payload in payloads:
            ledger.apply_payload(bytes.fromhex(payload))
    return ledger.digest()


if __name__ == "__main__":
    for each in sys.stdin:
        sys.stdout.write(f"{executed(each)}\n")
