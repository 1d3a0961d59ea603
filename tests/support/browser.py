"""Opens pages in headless Chromium: in the light or the dark theme, as wide as a phone or a desktop."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.support.processes import PATIENCE

Theme: TypeAlias = Literal["light", "dark"]
PHONE, DESK = 390, 1280
MILLISECONDS = 1000 * PATIENCE


@contextmanager
def opened(
    url: str, *, theme: Theme = "light", width: int = DESK, scripts: bool = True, local: bool = False
) -> Iterator[tuple[Page, list[str]]]:
    """Open a page, and collect its problems: errors of scripts, and requests to other places.

    Args:
        url: address of the page.
        theme: colour theme that the page should have.
        width: width of the window, in pixels.
        scripts: whether the browser runs JavaScript.
        local: whether the page may request more files from its own server.
    """
    wrong: list[str] = []

    def route(route: Route) -> None:
        asked = route.request.url
        if asked == url or (local and asked.startswith(url.partition("#")[0])):
            return route.continue_()
        wrong.append(f"asked for {asked}")
        return route.abort()

    with window(width, color_scheme=theme, java_script_enabled=scripts) as page:
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on(
            "console",
            lambda said: wrong.append(f"{said.text} {said.location['url']}") if said.type == "error" else None,
        )
        page.route("**/*", route)
        page.goto(url)
        yield page, wrong


@contextmanager
def window(width: int, **options: Any) -> Iterator[Page]:
    """Open an empty page that shares only the browser with other pages."""
    page = BROWSER.begin().new_page(viewport={"width": width, "height": 900}, **options)
    page.set_default_timeout(MILLISECONDS)
    try:
        yield page
    finally:
        page.context.close()


class OneBrowser:
    """Browser that starts with the first page and ends after a file of tests."""

    def __init__(self) -> None:
        self.running = ExitStack()
        self.browser: Browser | None = None

    def begin(self) -> Browser:
        """Start the browser if it does not run, and return it."""
        if self.browser is None:
            launch = self.running.enter_context(sync_playwright()).chromium.launch
            browser = launch(executable_path=_chromium(), args=["--no-sandbox"], timeout=MILLISECONDS)
            self.browser = self.running.enter_context(browser)
        return self.browser

    def end(self) -> None:
        """Close the browser if it runs."""
        self.running.close()
        self.browser = None


BROWSER = OneBrowser()


def violations(page: Page) -> list[str]:
    """Accessibility problems of a page that axe-core finds, such as elements that a keyboard cannot reach."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found]


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium: .ci/run installs it")
        pytest.skip("there is no Chromium on the PATH")
    return found
