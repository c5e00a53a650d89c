"""Posts bytes to a base URL over kept-alive connections; the only importer of requests.

Library exceptions end here: what comes out is an `Answer` read whole, or `Unreachable`.
Redirects are not followed (the receiver answers 307 to a wrong slash, and a body must not be sent
to wherever a stranger points), and credentials are never taken from a `.netrc`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3

from shipper.errors import Unreachable
from shipper.outcome import Answer

CONNECT_SECONDS = 5.0
# The receiver cancels what it has not stored when the client hangs up, so patience is cheaper.
READ_SECONDS = 30.0
# An answer is a few hundred bytes; a stranger's page need not be read to its end.
ANSWER_LIMIT = 1024 * 1024
# What is asked for may be long: the pods of a whole cluster.
LISTING_LIMIT = 64 * 1024 * 1024


class _NoCredentials(requests.auth.AuthBase):
    """Keeps requests from looking for a `.netrc`."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Poster:
    """Sends to one base URL; every thread has a connection of its own."""

    def __init__(
        self,
        *,
        user_agent: str,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._agent = user_agent
        self._timeout = (connect_seconds, read_seconds)
        self._local = threading.local()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST `body` as JSON and return the whole answer.

        Raises:
            Unreachable: no answer, or only a part of one.
        """
        headers = {"Content-Type": "application/json", **headers}
        return self._request("POST", url, body, headers)

    def get(self, url: str) -> Answer:
        """GET `url` and return the whole answer.

        Raises:
            Unreachable: no answer, or only a part of one.
        """
        return self._request("GET", url, None, {})

    def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            with self._session().request(
                method,
                url,
                data=body,
                headers=dict(headers),
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                limit = ANSWER_LIMIT if method == "POST" else LISTING_LIMIT
                content = response.raw.read(limit, decode_content=True)
                return Answer(
                    status=response.status_code,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    body=content,
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            self._local.session = None
            raise _translate(error, url) from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.headers["User-Agent"] = self._agent
            session.auth = _NoCredentials()
            adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=1)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            self._local.session = session
        return session


def _translate(error: Exception, url: str) -> Unreachable:
    """Name the failure and say whether the receiver may have got the request."""
    if isinstance(
        error,
        requests.exceptions.InvalidURL
        | requests.exceptions.MissingSchema
        | requests.exceptions.InvalidSchema,
    ):
        return Unreachable("bad-url", f"{url}: {error}", sent=False)
    host = urlsplit(url).netloc
    text = f"{host}: {_innermost(error)}"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable("connect-timeout", text, sent=False)
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError):
        return Unreachable("timeout", text, sent=True)
    if isinstance(error, requests.exceptions.SSLError):
        return Unreachable("tls", text, sent=False)
    chain = repr(error)
    if "NewConnectionError" in chain or "NameResolutionError" in chain:
        refused = "refused" in chain.lower()
        return Unreachable("refused" if refused else "no-connection", text, sent=False)
    return Unreachable("connection-lost", text, sent=True)


def _innermost(error: BaseException) -> str:
    """The sentence of the first cause, without the layers that requests puts around it."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return str(error).split("Failed to establish a new connection: ")[-1] or type(error).__name__
