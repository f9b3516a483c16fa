"""Swap a directory and a stranger's link to another one, as fast as can be, until killed.

    swap.py DIRECTORY OUTSIDE

The directory is called DIRECTORY or DIRECTORY.away, the link LINK or DIRECTORY.
"""

import os
import sys

directory, outside = sys.argv[1:]
away, link = f"{directory}.away", f"{directory}.link"
os.symlink(outside, link)
os.lchown(link, 65534, 65534)
print("swapping", flush=True)
while True:
    os.rename(directory, away)
    os.rename(link, directory)
    os.rename(directory, link)
    os.rename(away, directory)
