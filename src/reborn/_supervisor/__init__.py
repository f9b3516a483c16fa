"""Start a program again when it ends: what `reborn start --restart` and `reborn run` do.

The supervisor knows no command line; `_command` makes one from what it has read there.
"""
