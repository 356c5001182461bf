"""How the processes of a node end, for the supervisor to read (after sysexits.h)."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAULT: Final = 70
"""A fault of the program, or of what it stands on; starting again may help."""
OUTDATED: Final = 69
"""The federation lives by rules that the program does not know, or the program was replaced while
the node ran; only a person can mend that."""
DAMAGED: Final = 76
"""The store contradicts itself or its device failed; starting again must not be tried."""
CONFIGURATION: Final = 78
"""Something that the operator must change. At a node's start it ends the node; later it may be a
condition that passes, and is tried again."""
