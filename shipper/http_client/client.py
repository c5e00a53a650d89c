"""Posts bytes to a base URL over kept-alive connections.

Library exceptions end here: what comes out is an `Answer` read whole, or `Unreachable`. After
anything but a success the connection is closed: behind a balancer of connections the next try
reaches another replica.
Redirects are not followed (the receiver answers 307 to a wrong slash, and a body must not be sent
to wherever a stranger points). Nothing is taken from the environment: no `.netrc`, and a proxy only
when the settings say so. Certificates are always checked; there is no switch for that.
"""

from __future__ import annotations

import re
import ssl
import threading
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.utils
import urllib3

from shipper.errors import Unreachable
from shipper.http_client import Answer, tls
from shipper.http_client.connection import DeadlineAdapter, begin_exchange
from shipper.http_client.credentials import CredentialCache, Credentials, LoadedCredentials
from shipper.http_client.redact import masked

# An answer is a few hundred bytes; a stranger's page need not be read to its end.
ANSWER_LIMIT = 1024 * 1024
# What is asked for may be long: the pods of a whole cluster.
LISTING_LIMIT = 64 * 1024 * 1024
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError, UnicodeEncodeError)
_KEPT_REQUESTS = 32  # to different URLs; each thread has its own


class _NoCredentials(requests.auth.AuthBase):
    """Keeps requests from looking for a `.netrc`."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class HttpClient:
    """Sends to one base URL; every thread has a connection of its own."""

    def __init__(
        self,
        *,
        user_agent: str,
        connect_seconds: float,
        read_seconds: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._agent = user_agent
        self._cache = CredentialCache(credentials or Credentials())
        self._connect_seconds = connect_seconds
        self.read_seconds = read_seconds
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._local = threading.local()

    @property
    def credentials(self) -> Credentials:
        return self._cache.credentials

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        read_seconds: float | None = None,
        limit: int = ANSWER_LIMIT,
    ) -> Answer:
        """POST `body` as JSON and return the whole answer, after `read_seconds` at most.

        An answer is cut after `limit` bytes.

        Raises:
            Unreachable: no answer, or only a part of one.
        """
        headers = {"Content-Type": "application/json", **headers}
        seconds = read_seconds or self.read_seconds
        return self._request("POST", url, body, headers, seconds, limit)

    def get(self, url: str, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
        """GET `url` and return the whole answer, after `read_seconds` at most.

        Raises:
            Unreachable: no answer, or only a part of one.
        """
        return self._request("GET", url, None, headers, self.read_seconds, LISTING_LIMIT)

    def disconnect(self) -> None:
        """Close this thread's connection: what answers there is not what was asked for."""
        session: requests.Session | None = getattr(self._local, "session", None)
        self._local.session = None
        if session is not None:
            session.close()

    def close(self) -> None:
        """Let go of every kept connection."""
        for session in list(self._sessions):
            session.close()

    def _request(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        read_seconds: float,
        limit: int,
    ) -> Answer:
        keys = self._cache.load()
        mine = self._cache.credentials.is_for(url)
        own = {**headers, **(keys.headers if mine else {})}
        try:
            session = self._session(keys)
            begin_exchange(read_seconds)
            with session.send(
                self._prepared(session, method, url, body, own),
                timeout=(self._connect_seconds, read_seconds),
                allow_redirects=False,
                stream=True,
                verify=keys.authorities or True,
                cert=_pair(keys) if mine else None,
                proxies=self._proxies(url),
            ) as response:
                content = response.raw.read(limit, decode_content=True)
                if not content and _ends_in_head(response):
                    raise urllib3.exceptions.ProtocolError("the answer ends within its head")
                answer = _answer(response, content, keys)
        except _FAILURES as error:
            self.disconnect()
            raise _translate(error, url) from error
        if not 200 <= answer.status < 300:
            self.disconnect()
        return answer

    def _prepared(
        self,
        session: requests.Session,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> requests.PreparedRequest:
        """The request, a copy of the first one to the same URL with its own body and headers.

        The library's way to it takes a quarter of what a request costs. Where a receiver has set
        cookies, that way is gone each time.
        """
        if session.cookies:
            given = requests.Request(method, url, data=body, headers=dict(headers))
            return session.prepare_request(given)
        kept: dict[tuple[str, str], requests.PreparedRequest] = self._local.prepared
        if (method, url) not in kept:
            if len(kept) >= _KEPT_REQUESTS:
                kept.clear()
            kept[method, url] = session.prepare_request(requests.Request(method, url))
        prepared = kept[method, url].copy()
        for header in headers.items():
            requests.utils.check_header_validity(header)
        prepared.headers.update(headers)
        if body is not None:
            prepared.body = body
            prepared.headers["Content-Length"] = str(len(body))
        return prepared

    def _session(self, keys: LoadedCredentials) -> requests.Session:
        """This thread's session; a new one when the files have changed, for new handshakes."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None or self._local.keys is not keys:
            session = requests.Session()
            session.trust_env = False
            session.headers["User-Agent"] = self._agent
            session.auth = _NoCredentials()
            adapter = DeadlineAdapter()
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            self._local.session, self._local.keys = session, keys
            self._local.prepared = {}
            self._sessions.add(session)
        return session

    def _proxies(self, url: str) -> dict[str, str]:
        proxy = self._cache.credentials.proxy
        if proxy == "environment":
            found: dict[str, str] = requests.utils.get_environ_proxies(url)
            return found
        return {"http": proxy, "https": proxy} if proxy else {}


def _ends_in_head(response: requests.Response) -> bool:
    """Whether an answer without a body does not say that it has none: it was cut short."""
    announced = {"content-length", "transfer-encoding"} & {
        name.lower() for name in response.headers
    }
    return response.status_code == 200 and not announced


def _pair(keys: LoadedCredentials) -> Any:
    certificate, key = keys.pair
    return (certificate, key) if certificate and key else certificate or None


def _answer(response: requests.Response, content: bytes, keys: LoadedCredentials) -> Answer:
    return Answer(
        status=response.status_code,
        headers={
            name.lower(): keys.hide(value.encode("latin-1", "replace")).decode("latin-1")
            for name, value in response.headers.items()
        },
        body=keys.hide(content),
    )


def _translate(error: Exception, url: str) -> Unreachable:
    """Name the failure and say whether the receiver may have got the request."""
    if isinstance(
        error,
        requests.exceptions.InvalidURL
        | requests.exceptions.MissingSchema
        | requests.exceptions.InvalidSchema,
    ):
        return Unreachable("bad-url", f"{masked(url)}: {masked(str(error))}", sent=False)
    host = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(error, requests.exceptions.InvalidHeader | UnicodeEncodeError):
        # The text of the error has the value, which may be a secret.
        detail = f"{host}: a header to be sent has characters that no header can have"
        return Unreachable("bad-header", detail, sent=False)
    text = f"{host}: {_innermost(error)}"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Unreachable("connect-timeout", text, sent=False)
    if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError) or (
        isinstance(_cause(error), TimeoutError)
    ):
        return Unreachable("timeout", text, sent=True)
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable("proxy", f"{text}; check the setting proxy", sent=False)
    if isinstance(error, requests.exceptions.SSLError) or _has_tls(error):
        step = tls.advice(text)
        return Unreachable("tls", f"{text}; {step}" if step else text, sent=False)
    chain = repr(error)
    if "NewConnectionError" in chain or "NameResolutionError" in chain:
        refused = "refused" in chain.lower()
        return Unreachable("refused" if refused else "no-connection", text, sent=False)
    return Unreachable("connection-lost", text + _guess(url, chain), sent=True)


def _has_tls(error: BaseException) -> bool:
    """Whether a failed handshake is what lies below; it may come up while reading the answer."""
    return isinstance(error, ssl.SSLError) or any(
        _has_tls(inner) for inner in error.args if isinstance(inner, BaseException)
    )


def _guess(url: str, chain: str) -> str:
    """What may be behind a connection that was closed without an answer."""
    if not any(
        sign in chain
        for sign in ("RemoteDisconnected", "ResetError", "BrokenPipe", "BadStatusLine")
    ):
        return ""
    if url.startswith("https:"):
        return "; a receiver that asks for a client certificate may do so: see client_cert_file"
    return "; a receiver that speaks TLS on this port may do so: then the URL begins with https://"


def _cause(error: BaseException) -> BaseException:
    """The first cause of a failure, which the library has wrapped in others."""
    inner: BaseException | None = error
    while isinstance(inner, BaseException):
        error = inner
        args = [one for one in error.args if isinstance(one, BaseException)]
        inner = getattr(error, "reason", None) or (args[0] if args else None)
    return error


# urllib3 begins with the object that it is about; the host stands in our line already.
_WHO_SAYS_IT = re.compile(r"^(?:<[^>]*>|\w+\([^)]*\)): ")


def _innermost(error: BaseException) -> str:
    """The sentence of the first cause, without the layers that requests puts around it."""
    error = _cause(error)
    said = str(error).split("Failed to establish a new connection: ")[-1]
    return _WHO_SAYS_IT.sub("", said) or type(error).__name__
