"""Follows a log file through all that happens to it: whole lines, each byte once, in order.

- `lines`: where a piece of the file may end. Pure.
- `rotation`: the files that a rotation has made of the file.
- `follower`: what comes next, across rotation, truncation, deletion and re-creation.
- `checkpoint`: a position on disk, and the lock that lets one process at a time follow a file.
- `resume`: the newest position after a restart.
"""
