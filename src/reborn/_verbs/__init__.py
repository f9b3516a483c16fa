"""Start, stop, status and their like, for programs with a command line.

`application` (argparse), `click` and the command `reborn` share them; no start loads them.
"""
