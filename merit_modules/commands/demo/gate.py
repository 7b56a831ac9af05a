"""Which requests get through to the page: from where, how large, how slow."""

import asyncio
import contextlib
import json
import time
from urllib.parse import urlsplit

from merit_modules.errors import InputError

#: Names of this machine, for itself.
LOCAL = ("127.0.0.1", "localhost", "::1")
#: Largest request that is no upload, and what a form adds to the file in it.
MARGIN_BYTES = 2**20
#: Seconds for the headers of a request, and for the start of its body.
HEADERS_S, GRACE_S = 15.0, 20.0
#: Slowest rate of a body.
MIN_BYTES_PER_S = 2**14
#: Of what is refused, seconds and share of the limit that are read on.
DRAIN_S, DRAIN_SHARE = 20.0, 16
_UPLOAD, _CLOSE = "/upload", (b"connection", b"close")


class OwnHosts:
    """An ASGI application that is reached by its own names alone.

    A page elsewhere can have its name point at this machine and so read what
    is served here to the browser's user (DNS rebinding): the name that its
    requests ask for gives it away. Requests that another page sends are told
    by their origin.

    Arguments
    ---------
    app : callable
        The application.
    hosts : sequence of str
        Names, beside those that a machine has for itself and the address
        that a request came in at. Pages of these names may send requests.

    Example
    -------
    >>> hosts = OwnHosts(None, ["demo.example.org"])
    >>> hosts.is_own("localhost:7860"), hosts.is_own("evil.example")
    (True, False)
    >>> hosts.is_own("[::1]:80", "http://[::1]:80")
    True
    >>> hosts.is_own("localhost:80", "http://localhost:81")
    False
    >>> hosts.is_own("localhost:80", "https://demo.example.org")
    True
    """

    def __init__(self, app, hosts):
        self.app = app
        self.given = {host.lower().strip("[]") for host in hosts}

    async def __call__(self, scope, receive, send):
        """Handle a request as ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        values = {b"host": [], b"origin": []}
        for name, value in scope["headers"]:
            if name in values:
                values[name].append(value.decode("latin-1"))
        here = (scope.get("server") or ("",))[0]
        if len(values[b"host"]) == 1 and all(
            self.is_own(values[b"host"][0], origin, here)
            for origin in values[b"origin"] or [None]
        ):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(
                send,
                403,
                "this page has other names; merit demo --allow-host NAME "
                "gives it one more",
            )
        else:
            await send({"type": "websocket.close", "code": 1008})

    def is_own(self, host, origin=None, here=""):
        """Tell whether a request is meant for this page and comes from it.

        Arguments
        ---------
        host : str
            What it asks for: a name, perhaps with a port.
        origin : str, optional
            The page that sends it.
        here : str
            The address that it came in at.

        Returns
        -------
        bool
            Whether it may pass.
        """
        if _name(f"//{host}") not in {*LOCAL, *self.given, here}:
            return False
        if origin is None:
            return True
        same = origin.lower().partition("://")[2] == host.lower()
        return same or _name(origin) in self.given


def _name(address):
    try:
        return urlsplit(address).hostname
    except ValueError:  # no address at all
        return None


class BodyLimit:
    """An ASGI application that refuses large and slow requests for another.

    A request that says how large it is, is refused before any of it is used;
    one that does not say, as soon as it has sent too much. Memory and disk
    never see more than the limit. Who is refused may send on for a while, or
    would never read why.

    Arguments
    ---------
    app : callable
        The application.
    max_bytes : int
        Largest body of an upload; others have ``MARGIN_BYTES``.
    message : str
        What the client is told.
    admit : callable, optional
        Gives a context in which an upload of so many bytes comes in, or
        raises an :class:`~merit_modules.errors.InputError`.
    """

    def __init__(self, app, max_bytes, message, admit=None):
        self.app = app
        self.max_bytes = max_bytes
        self.message = message
        self.admit = admit or (lambda n_bytes: contextlib.nullcontext())

    async def __call__(self, scope, receive, send):
        """Handle a request as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].endswith("/openapi.json"):
            await _answer(send, 404, "Not Found")
            return
        is_upload = scope["path"].endswith(_UPLOAD)
        limit = self.max_bytes if is_upload else MARGIN_BYTES
        told = dict(scope["headers"]).get(b"content-length")
        if told is not None and not (told.isdigit() and int(told) <= limit):
            await self._refuse(413, self.message, receive, send)
            return
        with contextlib.ExitStack() as stack:
            if is_upload and scope["method"] == "POST":
                try:
                    n_bytes = limit if told is None else int(told)
                    stack.enter_context(self.admit(n_bytes))
                except InputError as error:
                    await self._refuse(503, str(error), receive, send)
                    return
            await self._pass(limit, scope, receive, send)

    async def _pass(self, limit, scope, receive, send):
        start_s, n_bytes = time.monotonic(), 0
        is_started = is_refused = False
        headers = dict(scope["headers"])
        is_whole = b"transfer-encoding" not in headers and (
            int(headers.get(b"content-length", 0)) == 0
        )

        async def counted():
            nonlocal n_bytes, is_whole, is_refused
            if is_whole or is_refused:
                return await receive()  # which tells of the client's leave
            end_s = start_s + GRACE_S + n_bytes / MIN_BYTES_PER_S
            try:
                message = await _before(end_s, receive)
            except asyncio.TimeoutError:
                refusal = 408, "the request came too slowly"
            else:
                n_bytes += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if n_bytes <= limit:
                    return message
                refusal = 413, self.message
            is_refused = True
            if not is_started:
                rest = _nothing if is_whole else receive
                await self._refuse(*refusal, rest, send)
            return {"type": "http.disconnect"}

        async def answer(message):
            nonlocal is_started
            is_started = True
            if is_refused:
                return
            if is_whole:
                await send(message)
            elif message["type"] == "http.response.start":
                kept = [h for h in message["headers"] if h != _CLOSE]
                await send({**message, "headers": [*kept, _CLOSE]})
            else:  # the application has an answer before it has read all
                await send({**message, "more_body": True})
                if not message.get("more_body", False):
                    await self._drain(receive, send)

        try:
            await self.app(scope, counted, answer)
        except Exception:
            # The application complains of the disconnection.
            if not is_refused:
                raise

    async def _refuse(self, status, message, receive, send):
        await _answer(send, status, message, more_body=True)
        await self._drain(receive, send)

    async def _drain(self, receive, send):
        """Let the client send on for a while; then end the answer."""
        n_bytes, end_s = 0, time.monotonic() + DRAIN_S
        with contextlib.suppress(asyncio.TimeoutError):
            while n_bytes <= DRAIN_SHARE * self.max_bytes:
                found = await _before(end_s, receive)
                n_bytes += len(found.get("body", b""))
                if not found.get("more_body", False):
                    break
        await send({"type": "http.response.body", "body": b""})


async def _nothing():
    return {"type": "http.request", "body": b"", "more_body": False}


async def _before(end_s, receive):
    left_s = end_s - time.monotonic()
    return await asyncio.wait_for(receive(), max(0.0, left_s))


async def _answer(send, status, message, more_body=False):
    """Send an answer after which the connection ends."""
    body = json.dumps({"detail": message, "error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        _CLOSE,
    ]
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": headers})
    rest = {"body": body, "more_body": more_body}
    await send({"type": "http.response.body", **rest})


def impatient_protocol(headers_s=HEADERS_S):
    """Make uvicorn's protocol close connections that never ask anything.

    Arguments
    ---------
    headers_s : float
        Seconds for the headers of a request.

    Returns
    -------
    type
        For ``uvicorn.Config(http=...)``.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        """HTTP that waits a while for a request."""

        _timer = None

        def connection_made(self, transport):
            """Wait for the first request."""
            super().connection_made(transport)
            self._arm()

        def data_received(self, data):
            """Take what comes, and see whether it is a request."""
            if self._timer is None and self._is_idle():
                self._arm()
            super().data_received(data)
            if not self._is_idle():
                self._disarm()

        def connection_lost(self, exc):
            """Wait no more."""
            self._disarm()
            super().connection_lost(exc)

        def _is_idle(self):
            return self.cycle is None or self.cycle.response_complete

        def _arm(self):
            self._timer = self.loop.call_later(headers_s, self.transport.close)

        def _disarm(self):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Impatient
