"""A headless Chromium over its debugging pipe: standard library only, no port, no driver.

Chromium reads commands from its descriptor 3 and writes answers and events to descriptor 4, each
a JSON object that ends in a zero byte (`--remote-debugging-pipe`).
"""

import json
import os
import select
import subprocess
import time
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--hide-scrollbars --remote-debugging-pipe"
).split()


class Browser:
    """One page of one browser; `events` are the messages that were not answers."""

    def __init__(self, profile: Path, limit: float = 60.0):
        self.limit = limit
        self.events: list[dict] = []
        self._count = 0
        self._buffer = b""
        ours, theirs = os.pipe(), os.pipe()  # we write to ours[1] and read from theirs[0]
        # High numbers first, so that 3 and 4 are free to be given away in the child.
        down, up = (os.dup2(fd, high) for fd, high in ((ours[0], 103), (theirs[1], 104)))

        def give() -> None:
            os.dup2(down, 3)
            os.dup2(up, 4)

        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            preexec_fn=give,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (ours[0], theirs[1], down, up):
            os.close(fd)
        self._write, self._read = ours[1], theirs[0]
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _message(self) -> dict:
        end = time.monotonic() + self.limit
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium said nothing for {self.limit} s"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium went away"
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)

    def call(self, method: str, **params) -> dict:
        """Send one command and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str) -> None:
        """Go to `url` and wait until it is loaded."""
        del self.events[:]
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def show(self, width: int, dark: bool = False) -> None:
        """Lay the page out for a screen of this width, in light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, script: str):
        """The JSON value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, **clip) -> str:
        """PNG of the whole page (or of x, y, width, height), base64."""
        where = {"clip": {**clip, "scale": 1}} if clip else {}
        return self.call("Page.captureScreenshot", captureBeyondViewport=True, **where)["data"]


def check_labels(browser: Browser) -> None:
    """No two texts of a figure overlap on the page that is open."""
    boxes = browser.value(
        "[...document.querySelectorAll('.plot > svg')].map(svg => [...svg.querySelectorAll('text')]"
        ".map(t => { const r = t.getBoundingClientRect();"
        " return [r.left, r.right, r.top + 2, r.bottom - 2, t.textContent]; }))"
    )
    for figure in boxes:
        for i, (left, right, top, bottom, text) in enumerate(figure):
            for other in figure[:i]:
                beside = left >= other[1] or other[0] >= right
                assert beside or top >= other[3] or other[2] >= bottom, (text, other[4])
