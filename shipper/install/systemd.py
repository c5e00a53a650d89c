"""Installs the systemd service for the `lens-ship` of this environment.

The first line of an installed file holds the digest of the rest. While it matches, the file may be
replaced or deleted. A file that was changed by hand is kept unless `force` is given. The
environment file is meant to be edited: it is written once and never replaced.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from shipper.docs import SHARE
from shipper.errors import ShipperError

DEFAULT_SPOOL = "/var/spool/lens-ship"
_UNIT = "lens-ship.service"
_PROGRAM = "/opt/lens-ship/bin/lens-ship"
_ENV_FILE = "/etc/lens-ship/lens-ship.env"
_SEAL = "# Written by `lens-ship systemd install`; sha256 of the lines below: "
# The manager of a user cannot change users, and the user's own files need no protection.
_NOT_FOR_USERS = re.compile(
    r"^(#|After|Wants|User|Group|StateDirectory(Mode)?|LoadCredential|CapabilityBoundingSet|AmbientCapabilities"
    r"|DevicePolicy|RemoveIPC|ReadWritePaths|Protect\w+|Private\w+|ProcSubset|UMask)=?.*\n",
    re.MULTILINE,
)


class UnitError(ShipperError):
    """The files cannot be written or removed."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the service. `kept`: written once, then edited by the operator."""

    path: Path
    text: str
    kept: bool = False

    def state(self) -> str:
        """`missing`, `current`, `outdated` (of another version or path) or `changed` by hand."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except (OSError, UnicodeDecodeError) as error:
            raise UnitError(f"{self.path}: {error}; nothing was changed") from error
        if text == self.text:
            return "current"
        return "outdated" if text == _sealed(text.partition("\n")[2]) else "changed"


def plan(*, user: bool, root: Path, spool: str, program: Path | None = None) -> list[File]:
    """The files of a system service or of a user's service; `root` is the prefix of their paths.

    Raises:
        UnitError: there is no `lens-ship` to start, or a unit cannot name the spool root.
    """
    program = program or _program()
    if not re.fullmatch(r"/[^\s%$'\"\\]*", spool) or not spool.isprintable():
        raise UnitError(f"--spool {spool!r}: give an absolute path without spaces, quotes, % and $")

    def made(name: str) -> str:
        text = (SHARE / "systemd" / name).read_text(encoding="utf-8")
        return text.replace(_PROGRAM, _quoted(str(program))).replace(DEFAULT_SPOOL, spool)

    unit = made(_UNIT)
    if user:
        home = home_of_user() / ".config"
        unit = _NOT_FOR_USERS.sub("", unit).replace(_ENV_FILE, "%E/lens-ship/lens-ship.env")
        unit = unit.replace("multi-user.target", "default.target")
        texts = {home / "systemd/user" / _UNIT: unit}
        environment = home / "lens-ship/lens-ship.env"
    else:
        texts = {
            Path("/etc/systemd/system", _UNIT): unit,
            Path("/etc/sysusers.d/lens-ship.conf"): made("lens-ship.sysusers.conf"),
            Path("/etc/tmpfiles.d/lens-ship.conf"): made("lens-ship.tmpfiles.conf"),
        }
        environment = Path(_ENV_FILE)
    files = [File(path=_below(root, path), text=_sealed(text)) for path, text in texts.items()]
    return [*files, File(path=_below(root, environment), text=made("lens-ship.env"), kept=True)]


def install(planned: list[File], *, force: bool, dry_run: bool = False) -> list[str]:
    """Write missing and outdated files, or with `dry_run` none; return one line for each file.

    Raises:
        UnitError: a file was changed by hand and `force` is not given, or cannot be written.
            Files before it are written.
    """
    changed = [file for file in planned if not file.kept and file.state() == "changed"]
    if changed and not force:
        raise UnitError(
            "\n".join(f"{file.path} was changed by hand" for file in changed)
            + "\nnothing was written. --force replaces it. Or put your changes into a drop-in"
            " (`systemctl edit lens-ship`) first"
        )
    return [_write(file, dry_run=dry_run) for file in planned]


def uninstall(planned: list[File], *, force: bool) -> list[str]:
    """Delete installed files; return one line for each file that existed.

    Raises:
        UnitError: a file cannot be deleted.
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
            raise _cannot(file, error) from error
        lines.append(f"deleted  {file.path}")
    units = [file.path for file in planned if file.path.name == _UNIT and not file.path.exists()]
    for link in [folder / _UNIT for unit in units for folder in unit.parent.glob("*.wants")]:
        if link.is_symlink():  # of `systemctl enable`, to a file that is gone
            link.unlink()
            lines.append(f"deleted  {link}")
    return lines


def next_steps(*, user: bool, root: Path, spool: str) -> list[str]:
    if user:
        environment = _below(root, home_of_user() / ".config/lens-ship/lens-ship.env")
        return [
            f"$EDITOR {environment}",
            "systemctl --user daemon-reload",
            "systemctl --user enable --now lens-ship",
            "loginctl enable-linger  # so that it runs when you are logged out",
        ]
    if root != Path("/"):  # an image: nothing of it runs, and its first boot creates the spool root
        return [
            f"systemd-sysusers --root={root}",
            f"$EDITOR {_below(root, Path(_ENV_FILE))}",
            f"systemctl --root={root} enable lens-ship",
        ]
    return [
        "systemd-sysusers",
        f"systemd-tmpfiles --create lens-ship.conf  # creates {spool}",
        f"$EDITOR {_below(root, Path(_ENV_FILE))}",
        "systemctl daemon-reload",
        "systemctl enable --now lens-ship",
        f"export PRIMUS_LENS_WANDB_OUTPUT_PATH={spool}  # in the training jobs",
    ]


def _write(file: File, *, dry_run: bool) -> str:
    state = file.state()
    if state == "current" or (file.kept and state != "missing"):
        return f"kept     {file.path}"
    if dry_run:
        return f"to write {file.path}"
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(file.text, encoding="utf-8")
        file.path.chmod(0o644)
    except OSError as error:
        raise _cannot(file, error) from error
    return f"written  {file.path}"


def home_of_user() -> Path:
    """The home directory.

    Raises:
        UnitError: this user has none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise UnitError("this user has no home directory; nothing was changed. Set HOME") from None


def _cannot(file: File, error: OSError) -> UnitError:
    where = file.path
    if isinstance(error, PermissionError):
        return UnitError(
            f"{where}: {error.strerror}. Files after it are not changed. "
            + (
                "Make it writable for this user, or set HOME"
                if ".config" in where.parts
                else "Run this as root, or give --user for your own service, --root for an image"
            )
        )
    return UnitError(
        f"{where}: {error.strerror}. Files after it are not changed. Correct that and run it again"
    )


def _program() -> Path:
    """The command of this interpreter's environment."""
    program = Path(sys.executable).parent / "lens-ship"
    if not program.is_file():
        raise UnitError(
            f"{program} does not exist. Install lens-ship[service] into this Python environment and"
            " run its own `lens-ship systemd install`"
        )
    return program


def _quoted(word: str) -> str:
    """For a command line of systemd."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if re.search(r"[\s\"']", word) else word


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _sealed(text: str) -> str:
    return f"{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
