"""Where the image and the code come from: build system variables, else the checkout's files.

Rules:
- For each field the variables are tried in the order given: those an image sets for this very
  purpose first, then those of the build systems.
- The checkout only fills what no variable says. A variable speaks of the image that runs; the
  checkout may be a directory the script happens to stand in.
"""

from __future__ import annotations

from spooler.detection import git
from spooler.detection.view import View

VARIABLES = {
    "build_url": "BUILD_URL CI_JOB_URL CI_PIPELINE_URL BUILDKITE_BUILD_URL CIRCLE_BUILD_URL",
    "dockerfile_url": "DOCKERFILE_URL",
    "image_tag": "IMAGE_TAG DOCKER_IMAGE_TAG CONTAINER_IMAGE DOCKER_IMAGE IMAGE_NAME IMAGE",
    "build_date": "BUILD_DATE IMAGE_BUILD_DATE BUILD_TIMESTAMP CI_PIPELINE_CREATED_AT",
    "git_commit": "GIT_COMMIT GIT_SHA COMMIT_SHA CI_COMMIT_SHA GITHUB_SHA BUILDKITE_COMMIT"
    " CIRCLE_SHA1 BUILD_SOURCEVERSION",
    "git_branch": "GIT_BRANCH CI_COMMIT_REF_NAME GITHUB_REF_NAME BRANCH_NAME BUILDKITE_BRANCH"
    " CIRCLE_BRANCH BUILD_SOURCEBRANCHNAME",
    "git_repo": "GIT_REPO GIT_URL CI_PROJECT_URL CI_REPOSITORY_URL BUILDKITE_REPO"
    " CIRCLE_REPOSITORY_URL BUILD_REPOSITORY_URI",
    "ci_pipeline_id": "CI_PIPELINE_ID GITHUB_RUN_ID BUILDKITE_BUILD_ID CIRCLE_WORKFLOW_ID"
    " BUILD_BUILDID BUILD_NUMBER",
}
"""Field of the request -> the variables that may fill it."""


def look(view: View) -> dict[str, str]:
    """Return the fields that something is known of."""
    said = {field: view.variable(*names.split()) for field, names in VARIABLES.items()}
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
