"""Whether what another node has sent as a state can be one, before this node lives by it.

Owns the look at every pair, once, in order of key: each is a record as it would have been written,
or a count or an entry of an index that the records call for, and what a record refers to is there.
A state that passes holds nothing that stops who reads it or executes commands on it. Does not own
whether it is the true one: a record that is well formed and false passes; nor whether it can have
become of the state that is here (`quorate.core.succession`). Pure, and in steps: the caller says
how many pairs it has time for.

An index agrees with its records when each record has its entry, and there are as many entries as
that: no entry is looked up backwards.
"""

from __future__ import annotations

from quorate.core.vetting.walk import Vetting, read_node

__all__ = ["Vetting", "read_node"]
