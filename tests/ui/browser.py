"""A headless Chromium on the Dagster UI, used as a person uses it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

from tests.dagster.dagster_processes import Dagster

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")
SCREENSHOTS = os.environ.get("LLM_ASSETS_SCREENSHOTS")
"""A folder where the pages that were seen are kept, such as docs/images."""

WINDOW: ViewportSize = {"width": 1360, "height": 900}
HIGHEST = 3000
"""Pixels of the highest picture."""
SETTLED_MILLISECONDS = 3000
"""After which a graph that moves into place has come to rest."""

LOOK_SECONDS = 8
PAGE_SECONDS = 60
RUN_SECONDS = 300


class Browser:
    """A page of the UI."""

    def __init__(self, page: Page, dagster: Dagster) -> None:
        self.page = page
        self._dagster = dagster

    def open(self, path: str) -> None:
        self.page.goto(f"{self._dagster.address}{path}")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def row(self, name: str) -> Locator:
        """Return the row of a table of metadata by its name."""
        return self.page.locator("tr").filter(has=self.page.get_by_text(name, exact=True)).last

    def sees(self, text: str, seconds: float = PAGE_SECONDS) -> None:
        """Wait until a text stands on the page."""
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=seconds * 1000)

    def comes_to_see(self, path: str, text: str) -> None:
        """Open a page again and again until a text stands on it, as one does who waits for a run."""
        end = time.monotonic() + RUN_SECONDS
        while True:
            self.open(path)
            try:
                return self.sees(text, LOOK_SECONDS)
            except AssertionError:
                if time.monotonic() > end:
                    raise

    def materialize(self, partitions: str | None = None) -> None:
        """On an asset's page: launch what materializes it, or some of its partitions."""
        if partitions is None:
            self._launch(self.button("Materialize").first)
            return
        self.button("Materialize").first.click()
        box = self.page.get_by_placeholder("No matching partitions")
        box.fill(partitions)
        box.press("Enter")
        launch = self.button("Launch").last
        expect(launch).to_be_enabled()
        self._launch(launch)

    def _launch(self, button: Locator) -> None:
        """Press a button, and wait until Dagster has taken what it launches: a page that is left sends nothing."""
        with self.page.expect_response(lambda response: "mutation Launch" in (response.request.post_data or "")):
            button.click()

    def screenshot(self, name: str, down_to: Locator | None = None) -> None:
        """Keep the page as it looks now, if somebody wants it.

        Args:
            name: What the file is called.
            down_to: What the picture is to end below, so that nothing is cut off; as high as the window if not given.
        """
        if not SCREENSHOTS:
            return
        self.page.mouse.move(0, 0)
        if down_to is not None:
            # Pages scroll within themselves, so only a higher window shows more of them.
            self.page.set_viewport_size({"width": WINDOW["width"], "height": HIGHEST})
            expect(down_to).to_be_visible()
            box = down_to.bounding_box()
            assert box is not None
            height = ceil(box["y"] + box["height"])
            assert height <= HIGHEST, f"{name} would be {height} pixels high"
            self.page.set_viewport_size({"width": WINDOW["width"], "height": height})
        self.page.wait_for_timeout(SETTLED_MILLISECONDS)
        self.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
        self.page.set_viewport_size(WINDOW)


@contextmanager
def browser_on(dagster: Dagster) -> Iterator[Browser]:
    """Start a browser; without Chromium the test is skipped, but not in CI."""
    if CHROMIUM is None:
        message = "The tests of the UI need Chromium: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = chromium.new_page(viewport=WINDOW)
        page.set_default_timeout(PAGE_SECONDS * 1000)
        yield Browser(page, dagster)
        chromium.close()
