"""Following a log file through all that happens to it: whole lines, each byte once, in order.

- `cut`: where a piece of it may end. Pure.
- `position`: how far it has been recorded, and of which file. Pure.
- `siblings`: the files that a rotation has made of it.
- `follow`: what comes next, across rotation, truncation, deletion and re-creation.
- `bookmark`: keeps a position on disk, and sees to it that one process follows a file at a time.
- `resume`: finds the newest position after a restart.
"""
