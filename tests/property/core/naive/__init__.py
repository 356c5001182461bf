"""Governance as the documents tell it, by itself, and the ledger held to it.

`world` is what there is, `deciding` who may do what, `rules` and `ballots` what each command does,
`model` the order in which a command is judged. None of them uses anything of `quorate.core`: plain
dictionaries in plain lists, searched from end to end. `histories` makes up what domains and nodes
do, `sides` has the ledger and the model do it, and compares; `python -m` runs many of them.

Not modelled: the form of commands and envelopes, for the model is given values; what a node adds
before it proposes anything; recovery.

A new type of command needs its rule in `model.RULES` and a way to make one up in `histories`.
"""
