"""No request is larger than allowed: what is too large is not even read."""

import json

#: What a form adds to the file in it.
MARGIN_BYTES = 2**20


class BodyLimit:
    """An ASGI application that refuses large requests for another one.

    A request that says how large it is, is refused before any of it is read;
    one that does not say, as soon as it has sent too much. Memory and disk
    never see more than the limit.

    Arguments
    ---------
    app : callable
        The application.
    max_bytes : int
        Largest body of a request.
    message : str
        What the client is told.
    """

    def __init__(self, app, max_bytes, message):
        self.app = app
        self.max_bytes = max_bytes
        self.message = message

    async def __call__(self, scope, receive, send):
        """Handle a request as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > self.max_bytes:
            await self._refuse(send)
            return
        n_bytes, started, refused = 0, False, False

        async def counted():
            nonlocal n_bytes, refused
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes <= self.max_bytes or refused:
                return message
            refused = True
            if not started:
                await self._refuse(send)
            return {"type": "http.disconnect"}

        async def answer(message):
            nonlocal started
            started = True
            if not refused:
                await send(message)

        try:
            await self.app(scope, counted, answer)
        except Exception:
            # The application complains of the disconnection.
            if not refused:
                raise

    async def _refuse(self, send):
        body = json.dumps({"detail": self.message, "error": self.message})
        headers = [
            (b"content-type", b"application/json"),
            (b"connection", b"close"),
        ]
        start = {"type": "http.response.start", "status": 413}
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})
