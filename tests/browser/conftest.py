"""A real browser for the tests of pages.

Needs Chromium and its driver; their paths may be given as CHROMIUM and CHROMEDRIVER. With SEQPRIOR_REQUIRE_BROWSER=1
a missing browser is a failure, else a reason to skip.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,1000",
)


def missing(what: str) -> None:
    """Fail where a browser is required, else skip."""
    if os.environ.get("SEQPRIOR_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what} is missing, and SEQPRIOR_REQUIRE_BROWSER=1 requires a browser")
    pytest.skip(f"{what} is missing; install Chromium, its driver and selenium to run the browser tests")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A function that starts a fresh browser, with or without JavaScript."""
    try:
        from selenium import webdriver
    except ImportError:
        missing("selenium")
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not browser or not Path(browser).exists():
        missing("Chromium")
    if not driver or not Path(driver).exists():
        missing("chromedriver")
    started = []

    def start(*flags: str, scripts: bool = True):
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        folder = tmp_path_factory.mktemp("chromium")
        for flag in (*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        settings = {"download.default_directory": str(folder), "download.prompt_for_download": False}
        if not scripts:
            settings["profile.managed_default_content_settings.javascript"] = 2
        options.add_experimental_option("prefs", settings)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        started.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        started[-1].downloads = folder
        return started[-1]

    yield start
    for window in started:
        window.quit()


@pytest.fixture(scope="session")
def until():
    """Wait for something to become true."""

    def wait(truth, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not truth():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def requested():
    """Addresses of every request since the last call, without those of the browser's own pages (its new tab)."""

    def sent_by(window) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
        sent = [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent" and not m["params"]["documentURL"].startswith("chrome:")
        ]
        sockets = [m["params"]["url"] for m in messages if m["method"] == "Network.webSocketCreated"]
        return sent + sockets

    return sent_by
