"""A page looked at in a real browser, without a driver: a page around it measures it and reports to a server of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
SECONDS = 60.0

AROUND = """<!DOCTYPE html><title>around</title><body><script>
const measure = (width) => new Promise((done) => {
  const frame = document.createElement("iframe");
  Object.assign(frame, {width, height: 800, src: "/page"});
  document.body.append(frame);
  const look = () => {
    const page = frame.contentDocument;
    const ready = page && page.readyState === "complete" && page.querySelector("main");
    if (!ready || (page.querySelector("figure.drawn") && page.documentElement.dataset.drawn === undefined))
      return setTimeout(look, 30);
    const color = (selector, what) => {
      const found = page.querySelector(selector);
      return found && frame.contentWindow.getComputedStyle(found)[what];
    };
    const result = {
      drawn: page.querySelectorAll(".plot svg.main-svg").length && Number(page.documentElement.dataset.drawn),
      traces: page.querySelectorAll(".plot .trace, .plot .hm image").length,
      wide: page.documentElement.scrollWidth - frame.contentWindow.innerWidth,
      overlong: [...page.querySelectorAll(".plot svg")].some((one) => one.getBoundingClientRect().right > width),
      paper: color("body", "backgroundColor"), ink: color("body", "color"), axis: color(".xtick text", "fill"),
      images: [...page.images].map((image) => image.naturalWidth),
      requests: frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name)
        .filter((name) => !name.startsWith("data:") && !name.startsWith("blob:")),
      attacked: "attacked" in frame.contentWindow,
    };
    frame.remove();
    done(result);
  };
  look();
});
(async () => {
  const found = [];
  for (const width of WIDTHS) found.push(await measure(width));
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


def look(page: str, folder: Path, widths: list[int], *flags: str) -> list[dict[str, Any]]:
    """What the browser makes of the page at each width, in pixels."""
    found: list[list[dict[str, Any]]] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = {"/page": page, "/": AROUND.replace("WIDTHS", str(widths))}.get(self.path)
            self.send_response(200 if text else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((text or "").encode())

        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [BROWSER or "", *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"]
    # A browser stays until it is told to go, and is several processes; it gets a group and a debugging port of its own.
    browser = subprocess.Popen(
        [*command, "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        done.wait(SECONDS)
    finally:
        os.killpg(browser.pid, 9)
        browser.wait()
        server.shutdown()
        server.server_close()
    assert found, "the page was not drawn in time"
    return found[0]
