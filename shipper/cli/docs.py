"""`lens-ship docs`."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("topic", default="")
def docs(topic: str) -> None:
    """Show the page TOPIC of the documentation, or list the pages.

    TOPIC is also the target of a link in a page, such as deployment.md#without-root. Where stdout
    is a terminal, the page is shown in a pager. Otherwise it is printed as it is, in Markdown.
    """
    from shipper.docs import overview, page

    text = page(topic) if topic else overview()
    if topic and sys.stdout.isatty():
        click.echo_via_pager(_rendered(text))
    else:
        click.echo(text)


def _rendered(text: str) -> str:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=None)
    with console.capture() as capture:
        console.print(Markdown(text.replace("<br>", " "), hyperlinks=False))
    return capture.get()
