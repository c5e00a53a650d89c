"""The files that make a service of this environment's `lens-ship`, and what is there of them.

Rules: a file is ours as long as its first line's digest fits what follows; then it may be replaced
or removed. One that somebody has changed is left alone unless told otherwise. The environment file
is made to be edited: it is written once and never replaced.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from shipper.errors import ShipperError

DEFAULT_SPOOL = "/var/spool/lens-ship"
_PROGRAM = "/opt/lens-ship/bin/lens-ship"
_ENV_FILE = "/etc/lens-ship/lens-ship.env"
_SEAL = "# Written by `lens-ship systemd install`; sha256 of the lines below: "
# A user's own manager can neither change users nor keep others out of what is the user's.
_NOT_FOR_USERS = re.compile(
    r"^(#|After|Wants|User|Group|StateDirectory(Mode)?|LoadCredential|CapabilityBoundingSet|AmbientCapabilities"
    r"|DevicePolicy|RemoveIPC|ReadWritePaths|Protect\w+|Private\w+|ProcSubset|UMask)=?.*\n",
    re.MULTILINE,
)


class UnitError(ShipperError):
    """The files cannot be written or removed."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the service. `kept`: written once, then the operator's own."""

    path: Path
    text: str
    kept: bool = False

    def state(self) -> str:
        """`missing`, `current`, `outdated` (ours, of another version or place) or `changed`."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except (OSError, UnicodeDecodeError) as error:
            raise UnitError(f"{self.path}: {error}; nothing was changed") from error
        if text == self.text:
            return "current"
        return "outdated" if _is_sealed(text) else "changed"


def plan(*, user: bool, root: Path, spool: str, program: Path | None = None) -> list[File]:
    """The files of a system's or a user's service, with `root` before their paths.

    Raises:
        UnitError: there is no `lens-ship` to start, or the root cannot stand in a unit.
    """
    program = program or _program()
    if not spool.startswith("/") or re.search(r"[\s%$'\"\\]", spool):
        raise UnitError(f"--spool {spool!r}: give an absolute path without spaces, quotes, % and $")
    if user:
        home = Path.home() / ".config"
        unit = _for_user(_template("lens-ship.service"))
        texts = {home / "systemd/user/lens-ship.service": _adapted(unit, program, spool)}
        environment = home / "lens-ship/lens-ship.env"
    else:
        texts = {
            Path("/etc/systemd/system/lens-ship.service"): _adapted(
                _template("lens-ship.service"), program, spool
            ),
            Path("/etc/sysusers.d/lens-ship.conf"): _template("lens-ship.sysusers.conf"),
            Path("/etc/tmpfiles.d/lens-ship.conf"): _adapted(
                _template("lens-ship.tmpfiles.conf"), program, spool
            ),
        }
        environment = Path(_ENV_FILE)
    made = [File(path=_below(root, path), text=_sealed(text)) for path, text in texts.items()]
    settings = _adapted(_template("lens-ship.env"), program, spool)
    return [*made, File(path=_below(root, environment), text=settings, kept=True)]


def install(planned: list[File], *, force: bool) -> list[str]:
    """Write what is missing or outdated; one line for each file.

    Raises:
        UnitError: one is changed and `force` is not given, or cannot be written; then the ones
            before it are in place.
    """
    changed = [file for file in planned if not file.kept and file.state() == "changed"]
    if changed and not force:
        raise UnitError(
            "\n".join(f"{file.path} has been changed by somebody" for file in changed)
            + "\nnothing was written; --force replaces it, or put your changes into a drop-in"
            " (`systemctl edit lens-ship`) first"
        )
    return [_write(file) for file in planned]


def uninstall(planned: list[File], *, force: bool) -> list[str]:
    """Remove what is ours; one line for each file that was there.

    Raises:
        UnitError: a file cannot be removed.
    """
    lines = []
    for file in planned:
        state = file.state()
        if state == "missing":
            continue
        if state == "changed" and (file.kept or not force):
            lines.append(f"kept     {file.path}: changed since it was written")
            continue
        try:
            file.path.unlink()
        except OSError as error:
            raise UnitError(f"{error}; run this as root, or with --user or --root") from error
        lines.append(f"removed  {file.path}")
    return lines


def next_steps(*, user: bool, root: Path, spool: str) -> list[str]:
    """What is left to do by hand, as commands."""
    if user:
        environment = _below(root, Path.home() / ".config/lens-ship/lens-ship.env")
        return [
            f"$EDITOR {environment}",
            "systemctl --user daemon-reload",
            "systemctl --user enable --now lens-ship",
            "loginctl enable-linger  # so that it runs without a session of yours",
        ]
    return [
        "systemd-sysusers",
        f"systemd-tmpfiles --create lens-ship.conf  # makes {spool}",
        f"$EDITOR {_below(root, Path(_ENV_FILE))}",
        "systemctl daemon-reload",
        "systemctl enable --now lens-ship",
        f"export PRIMUS_LENS_WANDB_OUTPUT_PATH={spool}  # in the training jobs",
    ]


def _write(file: File) -> str:
    state = file.state()
    if state == "current" or (file.kept and state != "missing"):
        return f"kept     {file.path}"
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(file.text, encoding="utf-8")
        file.path.chmod(0o644)
    except OSError as error:
        raise UnitError(f"{error}; run this as root, or with --user or --root") from error
    return f"written  {file.path}"


def _program() -> Path:
    """The command of the environment that this interpreter belongs to."""
    program = Path(sys.executable).parent / "lens-ship"
    if not program.is_file():
        raise UnitError(
            f"{program} is not there: install lens-ship into this Python environment, and call"
            " its own `lens-ship systemd install`"
        )
    return program


def _adapted(text: str, program: Path, spool: str) -> str:
    return text.replace(_PROGRAM, _quoted(str(program))).replace(DEFAULT_SPOOL, spool)


def _for_user(unit: str) -> str:
    unit = _NOT_FOR_USERS.sub("", unit).replace(_ENV_FILE, "%E/lens-ship/lens-ship.env")
    return unit.replace("multi-user.target", "default.target")


def _template(name: str) -> str:
    packaged = Path(str(files("shipper") / "systemd" / name))
    if not packaged.is_file():
        packaged = Path(str(files("shipper"))).parent / "systemd" / name  # an editable install
    return packaged.read_text(encoding="utf-8")


def _quoted(word: str) -> str:
    """As systemd reads a command line."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if re.search(r"[\s\"']", word) else word


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _sealed(text: str) -> str:
    return f"{_SEAL}{_digest(text)}\n{text}"


def _is_sealed(text: str) -> bool:
    first, _, rest = text.partition("\n")
    return first == _SEAL + _digest(rest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
