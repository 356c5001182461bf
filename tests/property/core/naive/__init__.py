"""Governance as the documents tell it, by itself, and the ledger held to it.

`world` is what there is, `deciding` who may do what, `rules`, `delegating`, `proving`, `freezing`
and `ballots` what each command does, `model` the order in which a command is judged. None of them
uses anything of `quorate.core`: plain dictionaries in plain lists, searched from end to end.
`histories` makes up what domains and nodes do, with `cast`, `linking`, `showing`, `voting`,
`halting` and `keying`; `sides` has the ledger and the model do it, and compares; `noting` counts
what came up, `due` says what should have; `python -m` runs many of them.

Both versions of the protocol are modelled, and the way from one to the other.

Not modelled: the form of commands and envelopes, for the model is given values, but for what an
earlier version does not know; what a node adds before it proposes anything; recovery.

A new type of command needs its rule in `model.OF_DOMAINS` or `OF_NODES`, a way to make one up in
`histories`, and what it should come to in `due.PAIRS`.
"""
