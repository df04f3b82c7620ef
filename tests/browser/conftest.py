"""A headless Chromium to look at pages with, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Opened:
    """A page in a browser with a profile of its own.

    Attributes:
        page: Playwright's page.
        errors: what the console called an error, with its source, and exceptions that nobody
            caught.
        requests: addresses of everything that was asked for, the page itself first.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


# Not for the whole session: while it is open, asyncio takes this thread's event loop for running.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium without a window; the test is skipped where it is missing."""
    api = pytest.importorskip("playwright.sync_api", reason='no Playwright: pip install ".[dev]"')
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    as_root = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses root
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=as_root)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens an address or a file, `width` pixels wide, light or `dark`, and waits for its load."""
    contexts = []

    def open_one(address: str | Path, width: int = 1280, dark: bool = False) -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
        )
        contexts.append(context)
        opened = Opened(context.new_page())
        page = opened.page
        page.on("console", lambda message: _keep_error(message, opened.errors))
        page.on("pageerror", lambda error: opened.errors.append(str(error)))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        return opened

    yield open_one
    for context in contexts:
        context.close()


def _keep_error(message: ConsoleMessage, errors: list[str]) -> None:
    if message.type == "error":
        errors.append(f"{message.text} ({message.location.get('url', '')})")
