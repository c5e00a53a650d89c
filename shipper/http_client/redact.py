"""Takes out of a text what must not be shown. Pure."""

from __future__ import annotations

import re


def masked(text: str) -> str:
    """`text` without the user name and password of a URL, even of a malformed one."""
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1***@", text, flags=re.IGNORECASE | re.DOTALL)
