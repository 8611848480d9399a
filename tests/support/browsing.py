"""What the tests in a browser share beside their fixtures, which are in conftest.py."""

from __future__ import annotations

from importlib.resources import files

from places import ROOT
from playwright.sync_api import Page

AXE = files("axe_playwright_python") / "axe.min.js"
"""Read here, since the package itself reads it in the locale's encoding."""
SCREENSHOTS = ROOT / "build" / "screenshots"
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 1000}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 1000}},
    "phone": {"color_scheme": "light", "viewport": {"width": 375, "height": 1000}},
}
"""How a page is looked at: options of a browser's context, by name."""


def barriers(page: Page) -> list[tuple[str, str]]:
    """What axe-core finds wrong: the rule, and the first element that breaks it."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def keep_screenshot(page: Page, name: str, *, whole: bool) -> None:
    """Keeps a picture for people to look at, of the whole page or of what the window shows."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)
