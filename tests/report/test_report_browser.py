"""A browser shows a report without an error, a request, or a scroll sideways, on a phone and on paper."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading

import pytest
from helpers.jobs import reports

from fxprune.passes.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian's package `chromium`)"),
]
WIDTHS = (360, 1280)
# A page that shows the report in frames as wide as a phone and a screen, and says what is wider, or too small to read.
FRAMES = """<!doctype html><title>frames</title><link rel="icon" href="data:,"><pre id="found"></pre>
<script>function look(frame) {
  const page = frame.contentDocument, width = frame.clientWidth;
  const wide = [...page.body.querySelectorAll('*')].filter(each => !each.closest('.scroll') &&
    each.getBoundingClientRect().right > width + 0.5).map(each => each.tagName);
  const small = [...page.querySelectorAll('.chart text')].filter(each =>
    each.getBoundingClientRect().height < 11.5).map(each => each.textContent);
  const fits = Math.max(page.documentElement.scrollWidth, page.body.scrollWidth) <= width;
  found.textContent += [width, fits ? 'fits' : 'scrolls', ...wide, ...small].join(' ') + ';';
}</script>""" + "".join(
    f'<iframe src="report.html" width="{width}" height="800" style="border: 0" onload="look(this)"></iframe>'
    for width in WIDTHS
)


class Folder(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and remembers what was asked for."""

    asked: list[str]

    def log_message(self, *_):
        self.asked.append(self.path)


@pytest.fixture
def served(tmp_path):
    """Write a report, and serve it: the address, and every path that is asked for."""
    folder = reports.write(tmp_path / "out", reports.result(tmp_path / "out"), reports.recording("n" * 200))
    write_report(folder, "out")
    (folder / "frames.html").write_text(FRAMES)
    handler = type("Handler", (Folder,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: handler(*args, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
        server.shutdown()
        thread.join()


def chromium(address, profile, *flags):
    """Stdout of a headless run, and the lines of its log that tell of the page."""
    quiet = ("--disable-gpu", "--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}")
    command = [CHROMIUM, "--headless", "--no-sandbox", *quiet, "--enable-logging=stderr", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_no_error_no_request_and_no_scroll_sideways(served, tmp_path):
    address, asked = served
    shown, console = chromium(f"{address}/frames.html", tmp_path / "profile", "--dump-dom", "--window-size=1400,900")
    found = re.search(r'<pre id="found">(.*?)</pre>', shown)[1].removesuffix(";").split(";")
    assert sorted(found) == sorted(f"{width} fits" for width in WIDTHS)
    assert (console, set(asked)) == ([], {"/frames.html", "/report.html"})


@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
def test_it_prints(served, tmp_path, scheme):
    address, asked = served
    paper = tmp_path / "report.pdf"
    flags = (f"--print-to-pdf={paper}", f"--blink-settings=preferredColorScheme={scheme}")
    _, console = chromium(f"{address}/report.html", tmp_path / "profile", *flags)
    assert (console, asked, paper.read_bytes()[:5]) == ([], ["/report.html"], b"%PDF-")
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) < 12


def test_the_log_has_what_a_page_says(served, tmp_path):
    """The two tests above would see an error, and a request."""
    address, asked = served
    (tmp_path / "out" / "report.html").write_text("<img src=absent.png><script>console.error('seen')</script>")
    _, console = chromium(f"{address}/report.html", tmp_path / "profile", "--dump-dom")
    assert any("seen" in line for line in console)
    assert "/absent.png" in asked
