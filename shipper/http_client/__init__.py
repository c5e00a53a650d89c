"""HTTP requests: one exchange, its credentials and TLS, and what of them may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SHOWN_BYTES, _SHOWN_CHARACTERS = 4096, 250
# Tags, and what of a page is not its text.
_MARKUP = re.compile(r"<(head|style|script)\b.*?(</\1>|$)|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def said(self, body: bytes | None = None) -> str:
        """The status and the text of the body, or of another one."""
        return f"{self.status} {self.text(body)}".rstrip()

    def text(self, body: bytes | None = None) -> str:
        """The beginning of the body in one line; of a page of HTML, as proxies send it, its text.

        A status that it begins with is left out.
        """
        text = (self.body if body is None else body)[:_SHOWN_BYTES].decode("utf-8", "replace")
        if text.lstrip().startswith("<"):
            text = _MARKUP.sub(" ", text)
        text = re.sub(rf"^{self.status}\b ?", "", " ".join(text.split()))
        return text[:_SHOWN_CHARACTERS]
