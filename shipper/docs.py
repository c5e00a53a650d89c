"""The files that the wheel carries beside the code: pages, units, manifests, the example.

They lie in `shipper/share` as in the repository, so their links to each other hold. A page is named
by its path without `.md` and `docs/`, and a part of it by `#` and its heading, as in a link:
`monitoring#lensshipdown`. Imports the standard library only: a training environment has no other.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from shipper.errors import ShipperError

_PACKAGE = Path(__file__).parent
SHARE = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent  # a checkout
_HEADING = re.compile(r"(#+) (.+)")


class PageUnknown(ShipperError):
    """There is no such page or heading. Names similar ones."""

    exit_code = 2


def overview() -> str:
    """The pages with their titles."""
    pages, lines = _pages(), []
    width = max(len(topic) for topic in pages if "/" not in topic)
    for topic, path in pages.items():
        if "/" not in topic:
            lines.append(f"{topic:<{width}}  {_title(path)}")
    for folder in dict.fromkeys(topic.partition("/")[0] for topic in pages if "/" in topic):
        count = sum(topic.startswith(f"{folder}/") for topic in pages)
        lines.append(f"{folder + '/':<{width}}  {count} pages: lens-ship docs {folder}/")
    lines += ["", f"Manifests, chart, alert rules, dashboards and these pages as files: {SHARE}"]
    return "\n".join(lines)


def page(topic: str) -> str:
    """The text of a page or of one heading of it, or the titles of a folder.

    Raises:
        PageUnknown: there is none.
    """
    name, _, heading = topic.partition("#")
    name = name.removeprefix("./").removeprefix("../").removeprefix("docs/").removesuffix(".md")
    pages = _pages()
    found = [one for one in pages if one.lower() == name.lower()]
    found = found or [one for one in pages if one.lower().startswith(name.lower())]
    if name.endswith("/") and found:
        return "\n".join(f"{one}  {_title(pages[one])}" for one in found)
    if len(found) != 1:
        raise PageUnknown(_unknown(topic, found or _similar(name.lower(), pages)))
    text = re.sub(r"<!-- .*? -->\n+", "", pages[found[0]].read_text(encoding="utf-8"))
    if not heading:
        return text.rstrip("\n")
    parts = _parts(text)
    if heading.lower() not in parts:
        raise PageUnknown(_unknown(topic, [f"{found[0]}#{one}" for one in parts]))
    return parts[heading.lower()]


def _pages() -> dict[str, Path]:
    below = SHARE / "docs"
    return {
        str(path.relative_to(folder).with_suffix("")): path
        for folder, pattern in ((SHARE, "*.md"), (below, "*.md"), (below, "*/*.md"))
        for path in sorted(folder.glob(pattern))
    }


def _title(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip("\n")


def _parts(text: str) -> dict[str, str]:
    """The text below each heading and its subheadings, by the name of the heading in a link."""
    lines = text.rstrip("\n").split("\n")
    headings, is_code = list[tuple[int, int, str]](), False
    for number, line in enumerate(lines):
        is_code ^= line.startswith("```")
        if not is_code and (found := _HEADING.fullmatch(line)):
            slug = re.sub(r"[^\w\- ]", "", found[2].lower()).replace(" ", "-")
            headings.append((number, len(found[1]), slug))
    parts = {}
    for at, (start, depth, slug) in enumerate(headings):
        later = (number for number, other, _ in headings[at + 1 :] if other <= depth)
        parts[slug] = "\n".join(lines[start : next(later, len(lines))]).rstrip("\n")
    return parts


def _similar(name: str, pages: dict[str, Path]) -> list[str]:
    """Pages with a similar name, or headings with the word, or pages that have it most often."""
    short = {topic.lower(): topic for topic in pages}
    if named := [short[one] for one in difflib.get_close_matches(name, short, n=3)]:
        return named
    texts = {
        topic: path.read_text(encoding="utf-8").lower()
        for topic, path in pages.items()
        if "/" not in topic
    }
    headed = [f"{one}#{part}" for one in texts for part in _parts(texts[one]) if name in part]
    having = [topic for topic, text in texts.items() if name in text]
    return headed or sorted(having, key=lambda topic: -texts[topic].count(name))[:5]


def _unknown(topic: str, similar: list[str]) -> str:
    hint = f"Similar: {', '.join(similar[:10])}. " if similar else ""
    return f"there is no page {topic!r}. {hint}`lens-ship docs` lists the pages"
