"""Broken builds for the attack on the log's lines."""

from __future__ import annotations

from tests.crash.lab.patches import Mutant, Patch

_FOLLOW = "spooler/filetail/follower.py"

LOG_MUTANTS: dict[str, Mutant] = {
    "position-apart-from-the-lines": Mutant(
        meaning="the log's position is looked for in its own file only, not in the last record",
        patches=(
            Patch(
                file="spooler/filetail/resume.py",
                old="    for directory, seq in _places(root, saved):\n",
                new="    for directory, seq in ():\n",
            ),
        ),
    ),
    "position-before-the-lines": Mutant(
        meaning="the log is gone past before its lines are recorded",
        patches=(
            Patch(
                file="spooler/collectors/log.py",
                old="        piece = data.piece\n",
                new="        piece = data.piece\n        self._pass(piece)\n",
            ),
        ),
    ),
    "partial-line-twice": Mutant(
        meaning="a line without its end is recorded as it is, and again when it is whole",
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
    "rotation-forgets-the-rest": Mutant(
        meaning="once a log is rotated, what was not read of it yet is left",
        patches=(
            Patch(
                file=_FOLLOW,
                old="            data = self._read()\n",
                new='            data = b"" if ended else self._read()\n',
            ),
        ),
    ),
    "truncation-not-noticed": Mutant(
        meaning="a place in a log is known by its inode and offset, whatever stands there now",
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
    "characters-are-cut": Mutant(
        meaning="a piece of a long line may end inside a character",
        patches=(
            Patch(
                file="spooler/filetail/lines.py",
                old="        return len(data) - _begun(data)\n",
                new="        return len(data)\n",
            ),
        ),
    ),
}
