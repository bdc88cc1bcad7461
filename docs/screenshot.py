"""Take the README's screenshot of a running dashboard: python docs/screenshot.py URL."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def main(url: str) -> None:
    """Save docs/plan.png: the first page, light, 1440 by 1000."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme="light")
        page.goto(url)
        page.get_by_role("heading", level=2).first.wait_for(timeout=120_000)
        page.locator(".js-plotly-plot").nth(1).wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(__file__).with_name("plan.png")))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
