"""Running a program under a lease, and ending it, with all that came of it, when the lease is gone.

Three processes: the supervisor (`quorate exec`), which holds the lease; the init, which the
supervisor starts and which is the parent of the command; and the command.

- `leased`: the supervisor's loop: what the gate says and what signals say becomes orders.
- `contained`: the supervisor's hand on the init, and what it does when the init fails.
- `init`: the program that runs as the init. It, `family`, `descendants`, `cgroup`, `messages` and
  `kernel` import nothing but the standard library: it is small, it starts fast, and it has one
  thread, so that it may fork.
- `family`: the command and everything that came of it: started, signalled, frozen, killed.
- `reasons`: which denials are for good.

docs/exec.md says what is guaranteed, and what is not.
"""
