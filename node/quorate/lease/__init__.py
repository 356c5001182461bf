"""Authority and leases: whether this node may permit now, and on what.

A node holds authority until a deadline on its own boot clock; the check path asks for it before it
looks at anything else.
"""
