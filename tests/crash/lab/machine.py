"""A small virtual machine whose power can be cut: what its kernel has not written is lost.

The kernel and its drivers are Debian's cloud kernel: installed, or unpacked from its package into
the directory that LENS_SHIP_CRASH_KERNEL names. Its memory disk holds busybox and the files of this
very interpreter that the program needs; one virtual disk with ext4 holds what is to survive. A
SIGKILL of the emulator is the power cut: what the guest has given to its disk is in the image.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KERNEL_VARIABLE = "LENS_SHIP_CRASH_KERNEL"
_DRIVERS = (
    "virtio/virtio_ring.ko",
    "virtio/virtio.ko",
    "virtio/virtio_pci_legacy_dev.ko",
    "virtio/virtio_pci_modern_dev.ko",
    "virtio/virtio_pci.ko",
    "block/virtio_blk.ko",
)
_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for driver in {drivers}; do $b insmod /drivers/$driver; done
$b mount -t ext4 /dev/vda /data || {{ echo NO DISK; $b sleep 600; }}
export PYTHONHOME={home} PYTHONPATH={path} {environ}
{python} -u /program.py
echo PROGRAM ENDED
$b sleep 600
"""
# What the program has loaded is what must be in the memory disk.
_LIST = """
import sys
sys.argv = ["list"]
exec(compile(open({program!r}).read(), "program", "exec"), {{"__name__": "listed"}})
for module in list(sys.modules.values()):
    for name in ("__file__", "__cached__"):
        print(getattr(module, name, None) or "")
"""


def missing() -> str:
    """What this machine lacks for it; "" when nothing."""
    for program, package in (
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mke2fs", "e2fsprogs"),
        ("debugfs", "e2fsprogs"),
        ("busybox", "busybox-static"),
    ):
        if _find(program) is None:
            return f"{program} is not installed (Debian package {package})"
    if _kernel() is None:
        return (
            "no cloud kernel: install Debian's linux-image-cloud-amd64, or unpack the package of"
            f" its kernel with dpkg-deb -x and name the directory in {KERNEL_VARIABLE}"
        )
    return ""


def _find(program: str) -> str | None:
    unpacked = Path(os.environ.get(KERNEL_VARIABLE, "/nonexistent")) / "bin" / program
    if unpacked.exists():
        return str(unpacked)
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _kernel() -> tuple[Path, Path] | None:
    """The newest kernel image, and the directory of its drivers."""
    root = Path(os.environ.get(KERNEL_VARIABLE) or "/")
    for image in sorted(root.glob("boot/vmlinuz-*cloud-amd64"), reverse=True):
        drivers = root / "lib/modules" / image.name.removeprefix("vmlinuz-") / "kernel/drivers"
        if drivers.is_dir():
            return image, drivers
    return None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that runs `program` (Python source) at its start, with its disk at /data."""

    directory: Path
    tree: Path  # what the program imports
    program: str
    environ: dict[str, str]

    def build(self) -> None:
        """Make its disk and its memory disk."""
        subprocess.run(
            [str(_find("mke2fs")), "-q", "-t", "ext4", str(self.directory / "data.img"), "64M"],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        root = self.directory / "root"
        for name in ("bin", "proc", "sys", "dev", "data", "drivers", "tmp"):
            (root / name).mkdir(parents=True)
        shutil.copy2(str(_find("busybox")), root / "bin/busybox")
        kernel = _kernel()
        assert kernel is not None
        for driver in _DRIVERS:
            shutil.copy2(kernel[1] / driver, root / "drivers" / Path(driver).name)
        (root / "program.py").write_text(self.program, encoding="utf-8")
        self._copy_python(root)
        init = root / "init"
        init.write_text(
            _INIT.format(
                drivers=" ".join(Path(driver).name for driver in _DRIVERS),
                home=sys.base_prefix,
                path=":".join(["/tree", *self._site()]),
                environ=" ".join(f"{name}={value}" for name, value in self.environ.items()),
                python=os.path.realpath(sys.executable),
            ),
            encoding="utf-8",
        )
        init.chmod(0o755)
        with (self.directory / "memory.cpio").open("wb") as out:
            subprocess.run(
                ["sh", "-c", f"find . | {_find('busybox')} cpio -o -H newc 2>/dev/null"],
                cwd=root,
                stdout=out,
                check=True,
            )
        shutil.rmtree(root)

    def start(self) -> subprocess.Popen[str]:
        """Switch it on; what the program says is its stdout."""
        kernel = _kernel()
        assert kernel is not None
        # One that is not quiet mixes its words with the program's.
        words = "console=ttyS0 quiet loglevel=0 panic=-1 random.trust_cpu=on"
        return subprocess.Popen(
            [
                str(_find("qemu-system-x86_64")),
                *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
                *("-m", "320", "-smp", "1", "-serial", "stdio", "-cpu", "max"),
                *("-kernel", str(kernel[0]), "-initrd", str(self.directory / "memory.cpio")),
                *("-append", words),
                *("-drive", f"file={self.directory}/data.img,if=none,id=d,format=raw"),
                *("-device", "virtio-blk-pci,drive=d"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )

    def survived(self, below: str) -> Path:
        """Directory `below` of the disk as the next start would find it, copied out."""
        image = str(self.directory / "data.img")
        checker = str(_find("e2fsck") or "e2fsck")
        subprocess.run([checker, "-fy", image], capture_output=True, check=False)
        out = self.directory / "survived"
        out.mkdir()
        subprocess.run(
            [str(_find("debugfs")), "-R", f"rdump /{below} {out}", image],
            capture_output=True,
            check=True,
        )
        return out / below

    def _site(self) -> list[str]:
        import msgpack

        return [str(Path(msgpack.__file__).parents[1])]

    def _copy_python(self, root: Path) -> None:
        program = self.directory / "program.py"
        program.write_text(self.program, encoding="utf-8")
        told = subprocess.run(
            [sys.executable, "-S", "-c", _LIST.format(program=str(program))],
            env={**os.environ, "PYTHONPATH": ":".join([str(self.tree), *self._site()])},
            cwd=self.directory,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        files = {Path(line) for line in told.splitlines() if line.startswith("/")}
        files |= {Path(os.__file__), Path(os.path.realpath(sys.executable))}
        libraries = {lib for file in files if _is_binary(file) for lib in _libraries(file)}
        for file in sorted(files | libraries):
            if not file.exists():
                continue
            # The environment may stand inside the tree; there it keeps its place.
            ours = file.is_relative_to(self.tree) and not file.is_relative_to(sys.prefix)
            inside = Path("tree", file.relative_to(self.tree)) if ours else file.relative_to("/")
            (root / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, root / inside)
        (root / os.path.relpath(os.__file__, "/")).parent.joinpath("lib-dynload").mkdir(
            exist_ok=True
        )


def _is_binary(file: Path) -> bool:
    return ".so" in file.name or file == Path(os.path.realpath(sys.executable))


def _libraries(file: Path) -> list[Path]:
    """The shared libraries that a binary is linked with, its loader included."""
    told = subprocess.run(["ldd", str(file)], stdout=subprocess.PIPE, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", told)]


def cut_power(machine: subprocess.Popen[str]) -> None:
    """Kill the emulator and wait for its end."""
    machine.send_signal(signal.SIGKILL)
    machine.wait()


def lines(machine: subprocess.Popen[str]) -> Iterator[str]:
    """What the program says.

    Raises:
        RuntimeError: the machine has no disk, or its program has ended.
    """
    assert machine.stdout is not None
    for line in machine.stdout:
        if line.startswith(("NO DISK", "PROGRAM ENDED")):
            raise RuntimeError(f"the machine is of no use: {line}")
        yield line
