"""Takes the pictures of the page: `python take_page.py http://127.0.0.1:8080`.

maskprobe-serve must have been started for it: a question that was asked before is drafted from its own answer. It asks
the first model one thing, measures plain decoding beside it, and writes page-light.png and page-dark.png, the second
with the lower panels. Needs playwright and Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

QUESTION = (
    "Write three Python functions with docstrings: one that returns the mean of a list of numbers, one that returns "
    "its median, one that returns its mode."
)
# A drafted token whose box covers no panel.
NEAR_THE_LEFT = """[...document.querySelectorAll(".assistant .drafted")].findIndex(
    (token) => token.textContent.trim() && token.getBoundingClientRect().left < 230)"""
MOST_BYTES = 200_000


def main(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1040, "height": 960}, color_scheme="light")
        page.set_default_timeout(600_000)
        page.goto(url)
        page.evaluate("document.getElementById('settings').open = true")
        page.fill("#temperature", "0")
        page.fill("#max-tokens", "240")
        page.evaluate("document.getElementById('settings').open = false")
        page.fill("#input", QUESTION)
        page.press("#input", "Enter")
        page.locator("article.assistant .foot").wait_for()
        page.click("#measure")
        page.locator("#speed tbody tr").nth(1).wait_for()
        page.wait_for_load_state("networkidle")
        page.evaluate("document.getElementById('log').scrollTop = 0")
        for theme, panel in (("light", "#legend-title"), ("dark", "#times")):
            page.select_option("#theme", theme)
            page.locator(panel).scroll_into_view_if_needed()
            page.locator(".assistant .text .drafted").nth(page.evaluate(NEAR_THE_LEFT)).hover()
            path = Path(__file__).with_name(f"page-{theme}.png")
            page.screenshot(path=path)
            size = path.stat().st_size
            if size > MOST_BYTES:
                sys.exit(f"{path.name} has {size} bytes, {MOST_BYTES} at most")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
