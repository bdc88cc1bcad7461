"""From releasing the length slider to the new answer on screen, in a real browser; run it alone.

The question is LoRA of an 8B model on an A100. A first move to every stop lets all profiles be
traced; the moves after it are timed in the page itself, from the pointer's release to the change
of where rows are cut in the answer. Needs the system's Chromium (CHROMIUM names another one).
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from latency import LLAMA, MACHINE, SIZES

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MOVES = 40
WHOLE = "[class*=st-key-map-]"
"""The last thing the page draws."""
FIRST_MS, MOVE_MS = 180_000, 60_000
WATCH = """
() => {
  const thumb = () =>
    document.querySelector('.st-key-plan_length [data-testid=stSliderThumbValue]')?.innerText;
  // the data card says where rows are cut in the answer that is shown
  const answered = (value) => [...document.querySelectorAll('[data-testid=stCaptionContainer]')]
    .some((line) => line.innerText.includes(` at ${value} `));
  let released = null;
  document.addEventListener('pointerdown', () => { window.moved = null; released = null; }, true);
  document.addEventListener('pointerup', () => { released = performance.now(); }, true);
  const look = () => {
    if (released !== null && window.moved === null && answered(thumb().trim())) {
      window.moved = performance.now() - released;
    }
    requestAnimationFrame(look);
  };
  look();
}
"""


def report(moves: int = MOVES) -> str:
    """A sentence with p50 and p95; says so where there is no browser."""
    if CHROMIUM is None:
        return "Slider: not measured, no Chromium."
    with tempfile.TemporaryDirectory() as home:
        times = _measure(Path(home), moves)
    p50, p95 = np.percentile(times, (50, 95))
    return (
        f"Slider, 8B LoRA, from release to the new answer on screen: p50 {p50:.0f} ms, "
        f"p95 {p95:.0f} ms, {len(times)} moves."
    )


def _measure(home: Path, moves: int) -> list[float]:
    from playwright.sync_api import sync_playwright

    model, data = home / "model", home / "rows.jsonl"
    model.mkdir()
    config = {**LLAMA, **SIZES["8B"], "max_position_embeddings": 8192}
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    rng = random.Random(0)
    words = ("row", "of", "some", "length", "that", "varies")
    rows = [" ".join(rng.choices(words, k=rng.randint(40, 6000))) for _ in range(300)]
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "app", "--port", str(port)],
        cwd=home,
        env=dict(os.environ, TRAINING_ADVISOR_HOME=str(home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            query = f"?model={model}&data={data}&machine={MACHINE}&method=lora&lang=en"
            tab.goto(f"http://127.0.0.1:{port}/{query}")
            tab.locator(WHOLE).wait_for(timeout=FIRST_MS)
            return _move(tab, rng, moves)
    finally:
        server.terminate()
        server.wait(timeout=30)


def _move(tab: Any, rng: random.Random, moves: int) -> list[float]:
    """Milliseconds of each timed move; every stop was visited before."""
    tab.evaluate(WATCH)
    stops = [0.1, 0.3, 0.5, 0.7, 0.9]
    order = stops + stops + [rng.choice(stops) for _ in range(4 * moves)]
    times: list[float] = []
    at = None
    for number, stop in enumerate(order):
        if stop == at:
            continue
        at = stop
        box = tab.locator(".st-key-plan_length [role=group] > div").bounding_box()
        thumb = tab.locator(".st-key-plan_length input").locator("xpath=../..").bounding_box()
        x, y = thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(box["x"] + stop * box["width"], y, steps=4)
        tab.mouse.up()
        try:
            tab.wait_for_function("window.moved !== null", timeout=MOVE_MS)
        except Exception as error:  # noqa: BLE001 - two stops may share an answer
            print(f"slider: no new answer at {stop}: {type(error).__name__}", file=sys.stderr)
            continue
        took = tab.evaluate("window.moved")
        tab.locator(WHOLE).wait_for(timeout=MOVE_MS)
        if number >= 2 * len(stops):
            times.append(took)
        tab.wait_for_timeout(300)
        if len(times) >= moves:
            break
    return times


if __name__ == "__main__":
    print(report(int(sys.argv[1]) if len(sys.argv) > 1 else MOVES))
