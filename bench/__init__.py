"""Benchmarks: every figure beside a peer or a ceiling that is measured in the same run.

    make bench                          all of them, some minutes
    python -m bench consensus           one section: consensus, checks, writes, commands
    python -m bench --rounds 7          more rounds, steadier medians

The machine is shared with everything else that runs on it, so that absolute numbers of two runs say
nothing about each other. The two sides of a ratio are measured alternately, and medians are taken.
"""
