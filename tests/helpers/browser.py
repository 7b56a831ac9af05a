"""A real browser that says what a page asks for and complains about."""

import os
import shutil
from contextlib import contextmanager
from typing import NamedTuple

import pytest

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
]


class Visit(NamedTuple):
    """What came of loading a page."""

    errors: list
    requests: list
    broken_pictures: list
    silent_sounds: list
    overflow_px: int
    narrowest_cell_px: float


def executable():
    """Find a browser; skip the test where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("MERIT_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if found is None:
        pytest.skip("no Chromium here: set MERIT_CHROMIUM to its path")
    return found


@contextmanager
def browser(flags=()):
    """Start it, headless; with further flags, if need be."""
    api = pytest.importorskip("playwright.sync_api")
    path = executable()
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=path, args=[*FLAGS, *flags]
        )
        yield chromium
        chromium.close()


def visit(chromium, url, width, height, picture=None):
    """Load a page and wait for its pictures and sounds."""
    page = chromium.new_page(viewport={"width": width, "height": height})
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type in ("error", "warning")
            else None
        ),
    )
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url, wait_until="load")
    broken = page.evaluate(
        "() => [...document.images].filter(i => !(i.complete && "
        "i.naturalWidth > 0)).map(i => i.src.slice(0, 60))"
    )
    silent = page.evaluate(
        """async () => {
            const found = [];
            for (const sound of document.querySelectorAll('audio')) {
                for (let i = 0; i < 50 && !(sound.duration > 0); i++)
                    await new Promise(done => setTimeout(done, 100));
                if (!(sound.duration > 0)) found.push(sound.outerHTML);
            }
            return found;
        }"""
    )
    overflow = page.evaluate(
        "() => document.documentElement.scrollWidth - window.innerWidth"
    )
    narrowest = page.evaluate(
        "() => Math.min(...[...document.querySelectorAll('th, td')]"
        ".map(cell => cell.getBoundingClientRect().width))"
    )
    if picture:
        page.screenshot(path=picture, full_page=True)
    page.close()
    requests = [r for r in requests if not r.startswith(("data:", "file:"))]
    return Visit(errors, requests, broken, silent, overflow, narrowest)
