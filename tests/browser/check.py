"""Clicks through an HTML report in headless Chromium and takes pictures of it.

Talks to Chromium over its debugging pipe, so that only Python's standard library is needed.
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile


class Browser:
    """Headless Chromium with one page."""

    def __init__(self):
        name = next(n for n in ("chromium", "chromium-browser", "google-chrome") if shutil.which(n))
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()
        self.profile = tempfile.TemporaryDirectory()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        shell = 'exec "$@" 3<&%d 4>&%d' % (to_browser, from_browser)
        self.process = subprocess.Popen(
            ["sh", "-c", shell, "sh", name, *options, f"--user-data-dir={self.profile.name}"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.number = 0
        self.session = None
        self.events = []

    def read(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.answers, 1 << 16)
            if not piece:
                sys.exit("Chromium has ended")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, url, width, height):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def value(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            sys.exit(f"{expression}: {answer['exceptionDetails']['text']}")
        return answer["result"].get("value")

    def click(self, expression):
        """Clicks the middle of an element with the mouse."""
        self.value(f"({expression}).scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.value(f"JSON.stringify(({expression}).getBoundingClientRect())")
        box = json.loads(box)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            mouse = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", **mouse)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def media(self, media="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def picture(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def problems(self):
        """Errors of scripts and of the page's policy."""
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                yield event["params"]["exceptionDetails"]["text"]
            if event.get("method") == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["level"] == "error":
                    yield entry["text"]

    def end(self):
        self.process.kill()
        self.process.wait()


def check(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")
    print(f"ok: {what}")


def main():
    report, pictures = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    browser = Browser()
    try:
        browser.open(report.as_uri(), 1400, 1000)
        table = "document.querySelector('table#tensors')"
        rows = f"[...{table}.tBodies[0].rows]"

        def column(title):
            heads = f"[...{table}.tHead.rows[0].cells]"
            return browser.value(f"{heads}.findIndex(c => c.textContent.trim() === '{title}')")

        def cells(at):
            shown = f"{rows}.filter(r => !r.hidden).map(r => r.cells[{at}].dataset.v)"
            return [float(v) for v in browser.value(shown) if v not in (None, "")]

        count = browser.value(f"{rows}.length")
        check(count == 21, "the table has every tensor")
        sqnr, size = column("SQNR"), column("bytes")
        button = f"{table}.tHead.rows[0].cells[{sqnr}].querySelector('button')"
        browser.click(button)
        up = cells(sqnr)
        check(len(up) > 10 and up == sorted(up), "a click on SQNR sorts, smallest first")
        browser.click(button)
        check(cells(sqnr) == sorted(up, reverse=True), "a second click reverses the order")
        sort = f"{table}.tHead.rows[0].cells[{sqnr}].getAttribute('aria-sort')"
        check(browser.value(sort) == "descending", "the heading says the order")
        browser.click(f"{table}.tHead.rows[0].cells[{size}].querySelector('button')")
        check(cells(size) == sorted(cells(size)), "a click on bytes sorts by bytes")
        search = f"{table}.closest('section').querySelector('input[type=search]')"
        browser.click(search)
        browser.type("mlp up")
        names = f"{rows}.filter(r => !r.hidden).map(r => r.querySelector('.name').textContent)"
        shown = browser.value(names)
        right = len(shown) == 2 and all("mlp.up_proj" in name for name in shown)
        check(right, "typed words filter the table")
        said = browser.value(f"{table}.closest('section').querySelector('output').textContent")
        check(said == f"2 of {count}", "the number of matches stands beside the filter")
        browser.value(f"{search}.value = ''; {search}.dispatchEvent(new Event('input'))")
        check(len(browser.value(names)) == count, "without words every tensor is shown")
        browser.value("window.scrollTo(0, 0)")
        wide = "document.documentElement.scrollWidth <= window.innerWidth"
        check(browser.value(wide), "the page is not wider than the window")

        def ground():
            return browser.value("getComputedStyle(document.body).backgroundColor")

        browser.media(scheme="light")
        light = ground()
        browser.picture(pictures / "light.png")
        browser.media(scheme="dark")
        dark = ground()
        browser.picture(pictures / "dark.png")
        check(light != dark, "a dark browser gets a dark page")
        browser.media(media="print", scheme="dark")
        check(ground() in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"), "paper is white in dark mode too")
        hidden = "getComputedStyle(document.querySelector('.controls')).display === 'none'"
        check(browser.value(hidden), "the filter is not printed")
        browser.picture(pictures / "print.png")
        pdf = browser.call("Page.printToPDF", printBackground=False)
        (pictures / "print.pdf").write_bytes(base64.b64decode(pdf["data"]))
        problems = list(browser.problems())
        check(not problems, f"no error of a script or of the policy {problems or ''}")
    finally:
        browser.end()


if __name__ == "__main__":
    main()
