"""Chromium without a window, driven by its developer tools' protocol: pages are opened, clicked and read."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60  # for an answer
TROUBLE = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")


@contextmanager
def chromium(profile: Path) -> Iterator["Page"]:
    """A browser with one page, which reaches no other machine; profile: an empty folder for it."""
    from websockets.sync.client import connect

    flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", "--mute-audio"]
    flags += [
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    process = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        port = wait_for_port(profile / "DevToolsActivePort", process)
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            target = next(tab for tab in json.load(answer) if tab["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(SECONDS)


def wait_for_port(file: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + SECONDS
    while not (file.is_file() and (lines := file.read_text().splitlines())):
        assert process.poll() is None and time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.05)
    return lines[0]


class Page:
    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """A command of the protocol -> its result; what happens meanwhile is in `events`."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(timeout=SECONDS))).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, place: Path | str, width=1400, height=1000, dark=False, touch=False):
        """Opens a file or an address."""
        url = place if isinstance(place, str) else place.resolve().as_uri()
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + SECONDS
        while self.run("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.02)
        self.run("document.documentElement.style.scrollBehavior = 'auto'")

    def run(self, script):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script):
        """The value of an expression in the page as soon as it is true."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)
        return value

    def upload(self, selector, file: Path):
        """Gives a file to an input of the page."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=found["result"]["objectId"])

    def box(self, selector):
        """(left, top, width, height) of an element that is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        return self.run(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")

    def point(self, selector, across=0.5, down=0.5):
        """The point of the window at these shares of an element's width and height."""
        left, top, width, height = self.box(selector)
        return left + across * width, top + down * height

    def click(self, selector, across=0.5, down=0.5, times=1):
        x, y = self.point(selector, across, down)
        for count in range(1, times + 1):
            self.mouse("mousePressed", x, y, clickCount=count)
            self.mouse("mouseReleased", x, y, clickCount=count)

    def drag(self, selector, start, end):
        """Drags the mouse from one share (across, down) of an element to another."""
        points = [self.point(selector, *share) for share in (start, end)]
        self.mouse("mousePressed", *points[0])
        self.mouse("mouseMoved", *points[1], buttons=1)
        self.mouse("mouseReleased", *points[1])

    def mouse(self, kind, x, y, **more):
        told = {"button": "none" if kind == "mouseMoved" and not more else "left", "clickCount": 1} | more
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **told)

    def touch(self, *fingers):
        """One or two fingers, each a list of points of the window, move together from the first to the last."""
        for n, points in enumerate(zip(*fingers, strict=True)):
            touches = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
            self.call("Input.dispatchTouchEvent", type="touchMove" if n else "touchStart", touchPoints=touches)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key):
        text = key if len(key) == 1 else ""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def trouble(self):
        """What the console told since the page was opened."""
        self.run("new Promise(requestAnimationFrame)")
        return [event for event in self.events if event["method"] in TROUBLE]

    def fetched(self):
        """The addresses that were asked for since the page was opened, without what stands in the page itself."""
        asked = [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]
