"""One connection to Swift: python-swiftclient with types, and the only user of it.

Each method is one request. What Swift refuses raises `RefusedError`, an answer that
does not come, or not whole, raises `LostError`; who calls decides what may be asked
again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from swiftclient import client, exceptions

from image_repo.stores.store import CHUNK, Listed

T = TypeVar("T")

Headers = Mapping[str, str]
"""Of an answer: names in lower case, values percent-decoded once by swiftclient."""

NEWEST: Final = {"X-Newest": "true"}
"""Has every replica asked, and the newest answer given."""


class RefusedError(Exception):
    """Swift answered, but not with what was asked.

    Args:
        status: Of HTTP.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"Swift answered {status}")
        self.status = status


class LostError(Exception):
    """No answer came, or not all of it; what was asked may have happened."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an account is, and what opens it.

    Attributes:
        url: The account's storage URL.
        token: Of Keystone.
    """

    url: str
    token: str

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"Endpoint({self.url!r})"


class Wire:
    """A connection that is kept open; for one thread at a time.

    Args:
        url: The account's storage URL.
        timeout: Seconds to connect, and seconds without a byte.
        longest: Seconds that all bytes of one body may take, there or back.
        verify: A file of certificates; True: those of the system.

    Attributes:
        url: As given.
    """

    def __init__(
        self,
        url: str,
        timeout: tuple[float, float],
        longest: float,
        verify: str | bool = True,
    ) -> None:
        cacert = verify if isinstance(verify, str) else None
        self.url = url
        self._longest = longest
        self._http = _Connection(url, longest, cacert=cacert, timeout=timeout)
        self._parsed = urlsplit(url)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    # -- objects -----------------------------------------------------------------------

    def head(self, to: Endpoint, container: str, key: str, headers: Headers) -> Headers:
        """Return what is known about an object."""
        return self._ask(client.head_object, to, container, key, headers=dict(headers))

    @contextmanager
    def get(
        self, to: Endpoint, container: str, key: str, headers: Headers
    ) -> Iterator[tuple[Headers, Iterator[bytes]]]:
        """Give what is known about an object, and its body in pieces."""
        found, body = self._ask(
            client.get_object,
            to,
            container,
            key,
            resp_chunk_size=CHUNK,
            headers=dict(headers),
        )
        try:
            yield found, _pieces(body.resp.raw, time.monotonic() + self._longest)
        finally:
            body.close()

    def put(
        self,
        to: Endpoint,
        container: str,
        key: str,
        body: BinaryIO,
        headers: Headers,
    ) -> Headers:
        """Put an object; return the answer's headers.

        Args:
            to: Where.
            container: In which container.
            key: Under which name.
            body: As many bytes of it are sent as the headers say.
            headers: What is said of it, its Content-Length among that.
        """
        answer: dict[str, dict[str, str]] = {}
        body.seek(0)
        sent = _Bounded(body, time.monotonic() + self._longest)
        self._ask(
            client.put_object,
            to,
            container,
            key,
            # An empty file would be sent with a length and in chunks, too.
            contents=b"" if headers["Content-Length"] == "0" else sent,
            headers=dict(headers),
            response_dict=answer,
        )
        return answer["headers"]

    def delete(self, to: Endpoint, container: str, key: str) -> None:
        """Delete an object."""
        self._ask(client.delete_object, to, container, key)

    # -- containers --------------------------------------------------------------------

    def page(
        self, to: Endpoint, container: str, prefix: str, after: str, limit: int
    ) -> list[Listed]:
        """Return some objects, in the order of their names' UTF-8 bytes."""
        _, found = self._ask(
            client.get_container,
            to,
            container,
            marker=after or None,
            prefix=prefix or None,
            limit=limit,
        )
        with _translated():
            return [_listed(item) for item in found]

    def head_container(self, to: Endpoint, container: str) -> Headers:
        """Return the metadata of a container."""
        return self._ask(client.head_container, to, container)

    def raw_container(self, to: Endpoint, container: str) -> Mapping[str, bytes]:
        """Return the newest metadata of a container as it was sent, undecoded."""
        self._ask(client.head_container, to, container, headers=dict(NEWEST))
        answer: requests.Response = self._http.resp
        return {
            name.lower(): value.encode("latin-1")  # as http.client has decoded it
            for name, value in answer.headers.items()
        }

    def put_container(self, to: Endpoint, container: str) -> None:
        """Make a container; harmless when it is there."""
        self._ask(client.put_container, to, container)

    def post_container(self, to: Endpoint, container: str, headers: Headers) -> None:
        """Change metadata of a container."""
        self._ask(client.post_container, to, container, headers=dict(headers))

    def capabilities(self) -> Mapping[str, Mapping[str, object]]:
        """Return what the cluster can do, as its /info says."""
        parsed = urlsplit(f"{self._parsed.scheme}://{self._parsed.netloc}/info")
        with _translated():
            found: Mapping[str, Mapping[str, object]] = client.get_capabilities(
                (parsed, self._http)
            )
            return found

    def _ask(
        self, call: Callable[..., T], to: Endpoint, *names: str, **given: object
    ) -> T:
        with _translated():
            return call(
                to.url, to.token, *names, http_conn=(self._parsed, self._http), **given
            )


class _Connection(client.HTTPConnection):  # type: ignore[misc] # has no types
    """A connection that asks for exactly the path it is given, and takes any answer.

    requests resolves `..` and `.` in a path by itself: a key with such a segment would
    be another object, or lie in another container.
    """

    def __init__(
        self,
        url: str,
        longest: float,
        *,
        cacert: str | None,
        timeout: tuple[float, float],
    ) -> None:
        super().__init__(url, cacert=cacert, timeout=timeout)
        self._longest = longest
        session: requests.Session = self.request_session
        verify = self.requests_args["verify"]
        self._sending = session.merge_environment_settings(url, {}, True, verify, None)
        # Looked up once for all requests; and no .netrc has a say in who we are.
        session.trust_env = False

    def _request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str | bytes, str | bytes],
        data: object,
        timeout: tuple[float, float],
        **_: object,
    ) -> requests.Response:
        session: requests.Session = self.request_session
        asked = session.prepare_request(
            requests.Request(method, url, headers=headers, data=data)  # type: ignore[arg-type]
        )
        asked.url = url
        return session.send(
            asked, timeout=timeout, allow_redirects=False, **self._sending
        )

    def getresponse(self) -> object:
        """Return the answer with what swiftclient asks it for.

        By itself it takes a header for UTF-8, though Swift keeps for an object what it
        is given, and waits for an end that may never come.
        """
        answer = super().getresponse()
        until = time.monotonic() + self._longest
        answer.getheaders = lambda: [
            (_text(name), _text(value)) for name, value in answer.headers.items()
        ]
        answer.read = lambda: _whole(answer, until)
        return answer


def _listed(item: Mapping[str, str | int]) -> Listed:
    # Without a zone, which is UTC.
    modified = datetime.fromisoformat(str(item["last_modified"])).replace(tzinfo=UTC)
    return Listed(str(item["name"]), int(item["bytes"]), modified)


class _Bounded:
    """A body whose sending ends when its time is over."""

    def __init__(self, file: BinaryIO, until: float) -> None:
        self._file = file
        self._until = until

    def read(self, size: int = -1) -> bytes:
        if time.monotonic() > self._until:
            raise LostError("the object takes too long to be sent")
        return self._file.read(size)


def _text(header: str) -> str:
    """Return UTF-8 that http.client has decoded as Latin-1; it may be anything."""
    return header.encode("latin-1").decode(errors="replace")


def _whole(answer: requests.Response, until: float) -> bytes:
    try:
        return b"".join(_pieces(answer.raw, until))
    finally:
        answer.close()  # keeps the connection if all has been read


def _pieces(body: urllib3.BaseHTTPResponse, until: float) -> Iterator[bytes]:
    """Yield what arrives, as it arrives, until some time on the monotonic clock."""
    with _translated():
        while piece := body.read1(CHUNK):
            if time.monotonic() > until:
                raise LostError("the answer takes too long to arrive")
            yield piece


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exceptions.ClientException as error:
        if error.http_status:
            raise RefusedError(error.http_status) from error
        raise LostError("Swift's answer makes no sense") from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise LostError("Swift does not answer in time") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise LostError("the connection to Swift failed") from error
    except (KeyError, ValueError) as error:
        # A gateway before Swift has answered, with a page of its own.
        raise LostError("Swift's answer makes no sense") from error
