"""Seconds that a visitor of the page waits, in a real browser that shares the cores with the server.

Needs Chromium with its driver (Debian: chromium, chromium-driver). Times are medians over drawn scenes of 3 to 8 objects:
from the click until the first look is on the page, objects with what each is, and until the judged number.

Example:
    python benchmarks/page_speed.py --num_scenes 10
"""

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver

from igm import UserError
from igm.cli.launch import run
from igm.cli.options import Parser
from igm.settings import positive

FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,1150")
APP = Path(__file__).resolve().parents[1] / "demo" / "app.py"
LINE = "document.querySelector('#igm-summary')?.textContent || ''"
# The page watches itself: asking it from outside, many times a second, would load the cores that are measured.
DRAW = f"""
const done = arguments[0], image = () => document.querySelector("#igm-scene image")?.getAttribute("href");
const before = image(), start = performance.now();
let look = null;
const watch = new MutationObserver(() => {{
  const line = {LINE}, now = performance.now() - start;
  if (look === null && image() && image() !== before && line.includes("first look")) look = now;
  if (look !== null && line.includes("found")) {{
    watch.disconnect();
    requestAnimationFrame(() => done([look, performance.now() - start]));
  }}
}});
watch.observe(document.body, {{subtree: true, childList: true, characterData: true, attributes: true}});
[...document.querySelectorAll("button")].find((own) => own.innerText === "Draw a scene").click();
"""


def wait(what: Callable[[], object], seconds: float = 120) -> float:
    """Until `what` is true; return the time then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return time.monotonic()
        time.sleep(0.02)
    raise TimeoutError("the page did not show it")


def answers(address: str) -> bool:
    """Whether the server is up."""
    try:
        return bool(urllib.request.urlopen(address, timeout=5).status == 200)
    except OSError:
        return False


def open_browser(**capabilities: object) -> webdriver.Chrome:
    """A headless Chromium with its own driver, both of this machine; nothing is fetched.

    Raises:
        UserError: there is none.
    """
    program, helper = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or helper is None:
        raise UserError(
            "no chromium with chromedriver on this machine; install them (Debian: chromium, chromium-driver)"
        )
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    for name, value in capabilities.items():
        options.set_capability(name, value)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))


def visit(browser: webdriver.Chrome, num_scenes: int) -> list[tuple[float, float]]:
    """For each drawn scene the seconds until its first look, and until its judged number, on the page's own clock."""
    wait(lambda: "found" in str(browser.execute_script(f"return {LINE}")))
    browser.set_script_timeout(120)
    times = []
    for _ in range(num_scenes + 1):  # the first one warms up
        look, judged = browser.execute_async_script(DRAW)
        times.append((look / 1000, judged / 1000))
        time.sleep(0.5)
    return times[1:]


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--num_scenes", type=positive, default=10, help="drawn scenes")
    options = parser.parse_args()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as opened:
        browser = open_browser()
        opened.callback(browser.quit)
        begun = time.monotonic()
        server = opened.enter_context(
            subprocess.Popen([sys.executable, APP, "--port", str(port)], stdout=subprocess.DEVNULL)
        )
        opened.callback(server.terminate)
        wait(lambda: answers(address))
        print(f"up after {time.monotonic() - begun:.1f} s")
        browser.get(address)
        times = visit(browser, options.num_scenes)
    for name, seconds in zip(("first look", "judged number"), zip(*times, strict=True), strict=True):
        print(f"{name}: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}")


if __name__ == "__main__":
    run(main)
