"""Every parser of bytes from outside, given bytes that nobody would send.

`targets` has a function for each; `corpus` what they begin with, and `found` what once broke one.
The ordinary tests give them all of both, and changes of them; `make fuzz` (`__main__`) looks for
more, guided by coverage.
"""
