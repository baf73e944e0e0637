"""The page: what it says of uploads of every kind, whose results are whose, and what a visitor sees in a real browser."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

gr = pytest.importorskip("gradio", reason="the extra demo (Gradio) is not installed")
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "benchmarks")]  # as in `python demo/app.py`, and for the browser

from page import labels, pictures, reading, scene, serve  # noqa: E402
from page.charts import bars, error_curve, ticks  # noqa: E402
from page.shelf import Shelf  # noqa: E402

from igm import UserError  # noqa: E402

SCENE = ROOT / "sample_images" / "scene.png"
QUICK = {
    "num_candidates": 36,
    "num_draws": 4,
    "num_steps": 2,
    "count_draws": 4,
    "max_objects": 3,
    "confidence_draws": 2,
    "num_views": 1,
}


@pytest.fixture(scope="module")
def quick():
    """The page's model with few draws."""
    patch = pytest.MonkeyPatch()
    patch.setattr(reading, "SETTINGS", QUICK)
    reading.example.cache_clear()
    yield
    patch.undo()


@pytest.fixture(scope="module")
def address(quick):
    """Address of the page, served by this process."""
    page = serve.build()
    _, url, _ = serve.launch(page, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that says it has such a size, and holds what is given."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


BAD = {
    "text.png": (b"this is no picture", "not a picture"),
    "empty.png": (b"", "not a picture"),
    "cut.png": (SCENE.read_bytes()[:2000], "not a picture"),
    "bomb.png": (png(60_000, 50_000), "not a picture"),
    "large.png": (png(9_000, 7_000), "9000 x 7000 pixels"),
    "hollow.png": (png(64, 64), "not a picture"),
    "page.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not a picture"),
    "post.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_is_one_sentence(name, tmp_path):
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(gr.Error) as raised:
        scene.upload(str(tmp_path / name))
    told = raised.value.message
    assert words in told and told.endswith(".") and str(tmp_path) not in told and "\n" not in told


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(pictures.MOST_BYTES + 1)
    monkeypatch.setattr(pictures, "inspect_image", lambda path: pytest.fail("it was opened"))
    with pytest.raises(UserError, match="more than 20 MB"):
        pictures.opened(str(path))


def test_a_shelf_lets_go_what_is_old_or_too_much():
    now = [0.0]
    shelf = Shelf(most=2, seconds=10, clock=lambda: now[0])
    first, second = shelf.put("a"), shelf.put("b")
    assert first != second and len(first) >= 20 and shelf.get(first) == "a"
    shelf.put("c")  # b was asked for longest ago
    assert len(shelf) == 2 and shelf.get(first) == "a"
    with pytest.raises(UserError, match="no longer"):
        shelf.get(second)
    now[0] = 9.0
    shelf.get(first)
    now[0] = 18.0
    assert shelf.get(first) == "a" and len(shelf) == 1
    now[0] = 29.0
    for key in (first, None, 7, "guess"):
        with pytest.raises(UserError):
            shelf.get(key)


def test_a_price_is_that_of_the_scene(quick):
    key = reading.begin_example()
    own = reading.SHELF.get(key)
    parts = [{**part, "position": list(part["position"])} for part in own.scene.parts()]
    message = json.loads(json.dumps({"key": key, "objects": parts}))
    assert reading.price(message)["error"] == pytest.approx(own.scene.error, rel=1e-4)
    message["objects"][0]["position"] = [0.95, 0.9]
    assert reading.price(message)["error"] > own.scene.error
    assert reading.price([message]) == reading.price(message)


def test_one_thread_loads_all_models_and_asks_them(quick, monkeypatch):
    threads = []

    def watched(function):
        return lambda *args, **named: threads.append(threading.current_thread().name) or function(*args, **named)

    for module in (reading, labels):
        monkeypatch.setattr(module, "load_model", watched(module.load_model))
    monkeypatch.setattr(reading, "draw_scene", watched(reading.draw_scene))
    monkeypatch.setattr(reading.SHELF, "get", watched(reading.SHELF.get))
    for cached in (reading.model, reading.example, labels.faces, labels.animals):
        cached.cache_clear()
    serve.build().close()
    key = scene.draw()[0]
    scene.seek(key)
    labels.draw_one_face()
    reading.price({"key": key, "objects": []})
    assert len(threads) >= 7 and set(threads) == {"computing_0"}


@pytest.mark.parametrize(
    "change",
    [
        {"key": "guess"},
        {"objects": None},
        {"objects": [{"position": [0.5, 0.5]}] * 13},
        {"objects": [{"position": [float("nan"), 0.5]}]},
        {"objects": [{"position": [0.5, 0.5], "color": "<b>pink</b>"}]},
        {"objects": ["all"]},
        {"objects": [{"position": {"x": 1}}]},
    ],
)
def test_messages_that_no_board_sends_are_refused(quick, change):
    told = reading.price({"key": reading.begin_example(), "objects": [], **change})
    assert list(told) == ["message"] and len(told["message"]) < 200


def test_names_that_a_visitor_gives_are_shown_as_they_are_typed():
    with pytest.raises(gr.Error, match="does not know &lt;b&gt;cow") as raised:
        labels.draw_two_animals("cat, <b>cow</b>", "two")
    assert raised.value.message.endswith(".")
    picture, chart = labels.draw_two_animals("cat, dog", "one or two")
    assert chart.count("igm-bar-row") == 3 and ("cat" in picture or "dog" in picture)


def test_a_picture_that_no_model_knows_is_said_to_be_one(quick, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 144, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for path, strange in ((tmp_path / "noise.png", True), (SCENE, False)):
        key = scene.upload(str(path))[0]
        assert (pictures.UNLIKE in scene.seek(key)[0]) is (pictures.UNLIKE in scene.known(key, 2)[0]) is strange
    assert pictures.UNLIKE in labels.upload_face(str(tmp_path / "noise.png"))[0]
    assert pictures.UNLIKE not in labels.draw_one_face()[0]


def test_charts_are_drawn_to_scale():
    chart = error_curve([0.3, 0.2, 0.25], 2, 0.9)
    heights = [float(part.split('cy="')[1].split('"')[0]) for part in chart.split("<circle")[1:]]
    assert heights[0] < heights[2] < heights[1]  # y grows downwards
    assert (heights[1] - heights[2]) / (heights[2] - heights[0]) == pytest.approx(1, abs=0.05)
    assert "90 % sure" in chart and ticks(0.1, 0.3) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3])
    drawn = bars([("cat", 0.5), ("<dog>", 0.6), ("pig", 0.7)])
    assert "width:0.0%" in drawn and "width:50.0%" in drawn and "width:100.0%" in drawn and "<dog>" not in drawn


def test_the_space_installs_what_is_locked():
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    wanted = (ROOT / "demo" / "requirements.txt").read_text().splitlines()
    pinned = [line for line in wanted if "==" in line]
    assert len(pinned) >= 8 and set(pinned) <= set(lock)
    version = next(line for line in lock if line.startswith("gradio==")).partition("==")[2]
    assert f"sdk_version: {version}\n" in (ROOT / "demo" / "README.md").read_text()


def test_twenty_visitors_get_their_own(address, monkeypatch):
    """Everybody's picture has a colour of its own; it is what each of them, and nobody else, gets back."""
    from gradio_client import Client

    colours, lock = iter(range(20)), threading.Lock()

    def draw(seed, num_objects):
        with lock:
            own = next(colours)
        return Image.new("RGB", (24, 16), (10 * own + 20, 128, 128)), 100 + own

    monkeypatch.setattr(reading, "draw_scene", draw)
    barrier = threading.Barrier(20, timeout=60)

    def visit(_):
        client = Client(address, verbose=False, download_files=False)
        barrier.wait()
        board = client.predict(api_name="/draw")[1]
        whole = client.predict(1, api_name="/known")
        return board, whole

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(visit, range(20)))
    truths = set()
    for board, whole in results:
        own = reading.SHELF.get(board["key"])
        assert whole[1]["key"] == board["key"] and whole[1]["picture"] == board["picture"]
        assert f"drawn with {own.truth}." in whole[0]
        assert np.asarray(own.measured.image)[0, 0, 0] == 10 * (own.truth - 100) + 20
        truths.add(own.truth)
    assert len(truths) == 20 and len(reading.SHELF) <= reading.SHELF.most


def test_the_server_goes_on_after_bad_uploads(address, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    for name in ("text.png", "bomb.png"):
        (tmp_path / name).write_bytes(BAD[name][0])
        with pytest.raises(AppError, match=BAD[name][1]):
            client.predict(handle_file(tmp_path / name), api_name="/upload")
    board = client.predict(handle_file(SCENE), api_name="/upload")[1]
    assert board["objects"] and all(own["attributes"]["shape"] for own in board["objects"])  # at first look


@pytest.mark.parametrize(("port", "mend"), [("0", "from 1 to 65535"), ("x", "invalid"), (None, "give another")])
def test_a_port_that_cannot_be_used_is_refused_at_once(port, mend):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, ROOT / "demo" / "app.py", "--port", port or str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and mend in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium with its own driver, both from the system; nothing is fetched."""
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from page_speed import open_browser

    try:
        driver = open_browser(**{"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}})
    except UserError as error:
        pytest.skip(str(error))
    yield driver
    driver.quit()


def wait(what, seconds: float = 60):
    """The first true value of a function; what it looks at may be drawn anew meanwhile."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except StaleElementReferenceException:
            pass
        time.sleep(0.1)
    raise TimeoutError("it did not come")


def requests_of(browser) -> set[str]:
    """Where a page asked for something."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}


def test_in_a_browser(address, browser, tmp_path):
    """Open, upload, drag: marks are there, the error follows, the picture comes, no other machine is asked."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    def all_of(css):
        return browser.find_elements(By.CSS_SELECTOR, css)

    def text_of(css):
        return all_of(css)[0].text if all_of(css) else ""

    browser.get(address)
    wait(lambda: all_of("#igm-scene .igm-mark"))
    wait(lambda: all_of("#igm-objects tr") and all_of("#igm-curve circle") and all_of("#igm-heat img"))
    (tmp_path / "bad.png").write_bytes(BAD["text.png"][0])
    place = all_of("input[type=file]")[0]
    place.send_keys(str(tmp_path / "bad.png"))
    wait(lambda: "not a picture" in text_of("body"))
    Image.open(SCENE).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "good.png")
    before = all_of("#igm-scene image")[0].get_attribute("href")
    all_of("input[type=file]")[0].send_keys(str(tmp_path / "good.png"))
    wait(lambda: all_of("#igm-scene image")[0].get_attribute("href") != before)
    wait(lambda: "found" in text_of("#igm-summary"))
    time.sleep(0.5)  # gradio draws its tabs anew when a file has come
    wait(lambda: [tab.click() or tab for tab in all_of("button[role=tab]") if tab.text == "Edit"])
    mark = wait(lambda: [own for own in all_of("#igm-edit .igm-mark") if own.is_displayed()])[0]
    shown = float(text_of("#igm-edit .igm-now"))
    hand = ActionChains(browser, duration=20).click_and_hold(mark)
    for _ in range(6):
        hand = hand.move_by_offset(15, 12)
    hand.perform()
    wait(lambda: abs(float(text_of("#igm-edit .igm-now")) - shown) > 1e-4)
    assert not all_of("#igm-regenerated img")  # the error moved before anything was let go
    ActionChains(browser).release().perform()
    wait(lambda: all_of("#igm-regenerated img"))
    counted = len(all_of("#igm-edit .igm-mark"))
    wait(lambda: [own.click() or own for own in all_of("#igm-edit button") if own.text == "Remove"])
    wait(lambda: len(all_of("#igm-edit .igm-mark")) == counted - 1)
    outside = {url for url in requests_of(browser) if not url.startswith((address, "data:", "blob:", "chrome:"))}
    assert not outside
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
