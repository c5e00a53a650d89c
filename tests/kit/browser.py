"""Headless Chromium, for what only a browser can tell; tests skip where there is none."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.kit.spools import PATIENCE_SECONDS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # The page's own waiting passes at once, its requests are waited for.
    "--virtual-time-budget=3000",
)


def browse(url: str, *flags: str) -> str:
    """Open a page; the document as scripts have left it, then what the console was told."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [
                CHROMIUM,
                *_FLAGS,
                f"--user-data-dir={profile}",
                "--enable-logging=stderr",
                *flags,
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return "\n".join([done.stdout, *console])


def picture(url: str, path: Path, *, dark: bool, size: str = "1280,1000") -> None:
    """A screenshot of a page."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        subprocess.run(
            [
                CHROMIUM,
                *_FLAGS,
                f"--user-data-dir={profile}",
                scheme,
                f"--window-size={size}",
                f"--screenshot={path}",
                url,
            ],
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
