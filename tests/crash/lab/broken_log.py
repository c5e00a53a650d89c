"""Broken builds for the attack on the log's lines."""

from __future__ import annotations

from tests.crash.lab.patches import BrokenBuild, Patch

_FOLLOW = "spooler/filetail/follower.py"

LOG_BUILDS: dict[str, BrokenBuild] = {
    "position-not-read-from-records": BrokenBuild(
        meaning="the position in a log is read from its own file only, not from the last record",
        patches=(
            Patch(
                file="spooler/filetail/resume.py",
                old="    for directory, seq in _places(root, saved):\n",
                new="    for directory, seq in ():\n",
            ),
        ),
    ),
    "position-before-lines": BrokenBuild(
        meaning="the position in a log is saved before its lines are recorded",
        patches=(
            Patch(
                file="spooler/collectors/log.py",
                old="        piece = data.piece\n",
                new="        piece = data.piece\n        self._pass(piece)\n",
            ),
        ),
    ),
    "steps-of-a-piece-again": BrokenBuild(
        meaning="all steps of a piece that is read again are recorded again",
        patches=(
            Patch(
                file="spooler/log_steps.py",
                old="            if found.end > done:\n",
                new="            if found.end > -1:\n",
            ),
        ),
    ),
    "partial-line-twice": BrokenBuild(
        meaning="a line without its end is recorded as it is, and again when it is complete",
        patches=(
            Patch(
                file=_FOLLOW,
                old="        return Piece(text=lines.text(data), position=position,",
                new="        rest = os.pread(self._fd, 64, self._offset + len(data))\n"
                "        beyond = rest if data and b'\\n' not in rest else b''\n"
                "        return Piece(text=lines.text(data + beyond), position=position,",
            ),
        ),
    ),
    "rotation-skips-the-rest": BrokenBuild(
        meaning="the unread rest of a rotated log is skipped",
        patches=(
            Patch(
                file=_FOLLOW,
                old="            data = self._read()\n",
                new='            data = b"" if ended else self._read()\n',
            ),
        ),
    ),
    "truncation-not-noticed": BrokenBuild(
        meaning="a position in a log is an inode and an offset, without a fingerprint",
        patches=(
            Patch(
                file=_FOLLOW,
                old="            return data if self._is_same() else None\n",
                new="            return data\n",
            ),
            Patch(
                file="spooler/filetail/checkpoint.py",
                old="            and zlib.crc32(head) == self.head\n"
                "            and zlib.crc32(tail) == self.tail\n",
                new="",
            ),
        ),
    ),
    "multibyte-characters-cut": BrokenBuild(
        meaning="a part of a long line may end inside a character",
        patches=(
            Patch(
                file="spooler/filetail/lines.py",
                old="        return len(data) - _begun(data)\n",
                new="        return len(data)\n",
            ),
        ),
    ),
}
