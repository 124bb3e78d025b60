"""The CLIP lesson as a reader sees it: JupyterLab in headless Chromium runs it, and its slider redraws the image."""

import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from optional import absent

import mmlesson

ROOT = mmlesson.repository()
ARTIFACTS = ROOT / "test-artifacts"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RUN_SECONDS = 600
MOVES = 6

FLAGS = [
    "--no-sandbox",  # Chromium's sandbox refuses to start for root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

# Settings that keep a news pop-up away, and cells that are off the screen in the page.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}

# The kernel is ready only then: the page's own indicator says "idle" before there is a connection.
KERNEL_IS_IDLE = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === 'connected' && kernel?.status === 'idle';
}"""

# Resolves when all cells are done: to true, to false if one failed, to null if it took too long.
RUN_ALL = """seconds => Promise.race([
    window.jupyterapp.commands.execute('notebook:run-all-cells'),
    new Promise(resolve => setTimeout(() => resolve(null), 1000 * seconds)),
])"""

ERRORS = """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap(cell =>
    (cell.model.outputs?.toJSON() ?? [])
        .filter(output => output.output_type === 'error')
        .map(output => `cell ${cell.model.id}: ${output.ename}: ${output.evalue}`))"""

MARK_CELL = """tag => {
    const tagged = window.jupyterapp.shell.currentWidget.content.widgets
        .filter(cell => cell.model.getMetadata('tags')?.includes(tag));
    tagged.forEach(cell => cell.node.setAttribute('data-tag', tag));
    return tagged.length;
}"""

# The images below the slider, as one string; empty until all of them are loaded.
IMAGES = """() => {
    const images = [...document.querySelectorAll('[data-tag=browser-slider] .jp-OutputArea img')];
    return images.every(image => image.complete) ? images.map(image => image.src).join(' ') : '';
}"""


@contextmanager
def jupyterlab(folder, scratch):
    """A JupyterLab server on `folder` with fresh settings. Yields its base URL and its token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    for name in (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
        "MMLESSON_RESULTS",
    ):
        environment[name] = str(scratch / name.lower())
    for name, values in SETTINGS.items():
        path = scratch / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    log = ARTIFACTS / "jupyterlab.log"
    with open(log, "w", encoding="utf-8") as file:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not answers(f"{base}/api/status?token={token}"):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.2)
        yield base, token
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def page():
    """An empty page of a headless Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("Playwright is not installed: run `make test`, or pip install -c constraints.txt -e '.[test]'.")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        absent(f"No browser found (looked for {', '.join(BROWSERS)}): install Chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser.new_page(viewport={"width": 1280, "height": 1000})
        browser.close()


def test_the_clip_lesson_runs_and_its_slider_redraws(page, tmp_path, capsys):
    ARTIFACTS.mkdir(exist_ok=True)
    shutil.copytree(ROOT / "assets", tmp_path / "course" / "assets")
    (tmp_path / "course" / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "03_clip.ipynb", tmp_path / "course" / "notebooks")
    with jupyterlab(tmp_path / "course", tmp_path) as (base, token):
        page.goto(f"{base}/lab/tree/notebooks/03_clip.ipynb?token={token}")
        page.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
        try:
            finished = page.evaluate(RUN_ALL, RUN_SECONDS)
            assert page.evaluate(ERRORS) == []
            assert finished is not None, f"the cells were not done after {RUN_SECONDS} s"
            assert finished
            assert page.evaluate(MARK_CELL, "browser-slider") == 1, "one cell is tagged browser-slider"
            slider = page.locator("[data-tag=browser-slider]").get_by_role("slider").first
            slider.scroll_into_view_if_needed()
            milliseconds = [move(page, slider) for _ in range(MOVES)]
        finally:
            page.screenshot(path=ARTIFACTS / "clip.png")
    with capsys.disabled():
        print(f"\nThe CLIP lesson in JupyterLab: a slider redraws in {statistics.median(milliseconds):.0f} ms.")


def move(page, slider):
    """Move the slider by one step and wait until its image has changed. Returns the milliseconds that it took."""
    page.wait_for_function(IMAGES)  # there is one to begin with
    before, value = page.evaluate(IMAGES), slider.get_attribute("aria-valuenow")
    at_end = value == slider.get_attribute("aria-valuemax")
    slider.focus()
    start = time.perf_counter()
    slider.press("ArrowLeft" if at_end else "ArrowRight")
    page.wait_for_function(f"before => {{ const now = ({IMAGES})(); return now && now !== before; }}", arg=before)
    elapsed = 1000 * (time.perf_counter() - start)
    assert slider.get_attribute("aria-valuenow") != value
    return elapsed
