"""Serve the page on this machine, until someone stops it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from merit_modules.commands.demo.files import SessionFiles
from merit_modules.commands.demo.fragments import CSS
from merit_modules.errors import InputError

#: What Gradio must know before it is imported: no telemetry, no version check.
SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
#: Seconds that open connections have when the server stops.
_PATIENCE_S = 1


def serve(model, limits, host="127.0.0.1", port=0, say=print):
    """Serve a model's page until the process is interrupted or terminated.

    Arguments
    ---------
    model : SparseMERIT
        The model.
    limits : Limits
        What visitors may ask for.
    host : str
        Address to listen at.
    port : int
        Port; 0 takes a free one.
    say : callable
        Told the page's address.

    Raises
    ------
    InputError
        If Gradio is missing or nobody can listen there.
    """
    with (
        _terminable(),
        _listen(host, port) as opened,
        _private_folder() as folder,
    ):
        _run(_make_app(model, limits, folder), opened, say)


@contextlib.contextmanager
def _private_folder():
    """Make the folder of all uploads and results; delete it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="merit-demo-")).resolve()
    settings = SILENT | {"GRADIO_TEMP_DIR": str(folder)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _make_app(model, limits, folder):
    """Make the ASGI application of a model's page."""
    try:
        import gradio
        from fastapi import FastAPI
    except ImportError as error:
        raise InputError(
            "the page needs Gradio, which is not installed: pip install gradio"
        ) from error
    from merit_modules.commands.demo.page import build_page, theme

    max_bytes = round(limits.max_upload_mb * 2**20)
    files = SessionFiles(folder)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        files.close()

    page = build_page(model, files, limits)
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None, lifespan=lifespan),
        page,
        path="/",
        theme=theme(),
        css=CSS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        max_file_size=max_bytes,
    )
    # Gradio checks which files it may touch only once it believes this.
    page.has_launched = True
    return BodyLimit(
        app,
        max_bytes + MARGIN_BYTES,
        f"the upload is larger than {limits.max_upload_mb:g} MB",
    )


def _run(app, opened, say):
    import uvicorn

    address, port = opened.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    say(f"http://{shown}:{port}/")
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=_PATIENCE_S,
    )
    uvicorn.Server(config).run(sockets=[opened])


def _listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise InputError(
            f"{host}, port {port}: cannot listen there: {error.strerror}"
        ) from error
    return opened


@contextlib.contextmanager
def _terminable():
    """Make a termination end the process in order, as Ctrl-C does."""

    def leave(number, frame):
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
