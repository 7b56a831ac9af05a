"""Serve the page on this machine, until someone stops it."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from merit_modules.commands.demo.files import SessionFiles
from merit_modules.commands.demo.fragments import CSS
from merit_modules.commands.demo.gate import (
    MARGIN_BYTES,
    BodyLimit,
    OwnHosts,
    impatient_protocol,
)
from merit_modules.errors import InputError

#: What Gradio must know before it is imported: no telemetry, no version check.
SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
#: Seconds that open connections have when the server stops.
_PATIENCE_S = 1
#: Most connections: a page has two.
_MAX_CONNECTIONS = 512


def serve(model, about, limits, host="127.0.0.1", port=0, names=(), say=print):
    """Serve a model's page until the process is interrupted or terminated.

    Arguments
    ---------
    model : SparseMERIT
        The model.
    about : ModelAbout
        What the page says of it.
    limits : Limits
        What visitors may ask for.
    host : str
        Address to listen at.
    port : int
        Port; 0 takes a free one.
    names : sequence of str
        Further names of this machine; see
        :class:`~merit_modules.commands.demo.gate.OwnHosts`.
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
        app = _make_app(model, about, limits, folder)
        _run(OwnHosts(app, [host, *names]), opened, say)


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


def _make_app(model, about, limits, folder):
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
    files = SessionFiles(folder, limits.max_total_mb * 2**20)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        files.close()

    page = build_page(model, about, files, limits)
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
        app_kwargs={"openapi_url": None},
        show_error=False,
        max_file_size=max_bytes,
    )
    # Gradio checks which files it may touch only once it believes this.
    page.has_launched = True
    return BodyLimit(
        app,
        max_bytes + MARGIN_BYTES,
        f"the upload is larger than {limits.max_upload_mb:g} MB",
        files.admit,
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
        http=impatient_protocol(),
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_PATIENCE_S,
    )
    uvicorn.Server(config).run(sockets=[opened])


def _listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()  # who comes before the server is ready waits
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
