"""Carries messages over HTTP, as masters from 0.5.0 on take them."""

from __future__ import annotations

import spooler
from shipper.http_client import Answer
from shipper.http_client.client import HttpClient
from shipper.http_client.credentials import Credentials
from shipper.sinks.dlrover import encode
from shipper.sinks.dlrover.classify import Reply
from shipper.sinks.dlrover.session import Timeouts


class HttpTransport:
    """One base URL.

    Raises:
        Unreachable: from every call, when no answer came.
    """

    def __init__(self, target: str, timeouts: Timeouts) -> None:
        self._url = f"http://{target}"
        self._client = HttpClient(
            user_agent=f"lens-ship/{spooler.__version__}",
            connect_seconds=timeouts.connect_seconds,
            read_seconds=timeouts.answer_seconds,
            credentials=Credentials(proxy=timeouts.proxy),
        )

    def report(self, message: encode.Message, job_uid: str) -> Reply:
        """Have the master store something."""
        answer = self._post("/report", message, job_uid)
        success = _facts(answer).get("success")
        return Reply(
            status=_status(answer),
            success=success if isinstance(success, bool) else None,
            detail=answer.text(),
        )

    def get(self, message: encode.Message, job_uid: str) -> Reply:
        """Ask the master for something."""
        answer = self._post("/get", message, job_uid)
        data = _facts(answer).get("data")
        return Reply(
            status=_status(answer),
            data=data if isinstance(data, bytes) else b"",
            detail=answer.text(),
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _post(self, path: str, message: encode.Message, job_uid: str) -> Answer:
        headers = {encode.JOB_UID: job_uid} if job_uid else {}
        return self._client.post(self._url + path, encode.to_json(message), headers)


def _facts(answer: Answer) -> dict[str, object]:
    return (encode.attributes(answer.body) or {}) if answer.status == 200 else {}


def _status(answer: Answer) -> str:
    return "OK" if answer.status == 200 else str(answer.status)
