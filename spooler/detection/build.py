"""Where the image and the code come from: build system variables, else the checkout's files.

Rules:
- For each field the variables are tried in the order given: those an image sets for this very
  purpose first, then those of the build systems.
- The checkout only fills what no variable says. A variable speaks of the image that runs; the
  checkout may be a directory the script happens to stand in.
"""

from __future__ import annotations

from spooler.detection import git
from spooler.detection.catalogue import load
from spooler.detection.view import View

VARIABLES: dict[str, list[str]] = load("build")
"""Field of the request -> the variables that may fill it."""


def look(view: View) -> dict[str, str]:
    said = {field: view.variable(*names) for field, names in VARIABLES.items()}
    github = _github(view)
    checkout = git.look(view)
    facts = {
        field: value or github.get(field, "") or checkout.get(field, "")
        for field, value in said.items()
    }
    return {field: value for field, value in facts.items() if value}


def _github(view: View) -> dict[str, str]:
    server, repository = view.variable("GITHUB_SERVER_URL"), view.variable("GITHUB_REPOSITORY")
    if not repository:
        return {}
    place = f"{server or 'https://github.com'}/{repository}"
    run = view.variable("GITHUB_RUN_ID")
    return {"git_repo": place, "build_url": f"{place}/actions/runs/{run}" if run else ""}
