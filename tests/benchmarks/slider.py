"""From releasing the length slider to the new answer on screen, in a real browser; run it alone.

The question is LoRA of an 8B model on an A100. Every stop of the slider is visited first, until the
page has come to rest, and what it shows there is kept: the verdict's card and the bar of memory
(the answer), and all of the figures and rows. A timed move ends where the page shows exactly what
belongs to the new stop, so no answer to another one can end it; stops that show the same answer as
the one before are not moved to. Times are taken in the page, after the frame that shows it, from
the time stamp of the pointer's release. Needs the system's Chromium (CHROMIUM names another one).
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from latency import LLAMA, MACHINE, SIZES

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
MOVES = 40
GOAL_MS = 300
"""p95 of the answer."""
PATIENCE_MS = 300_000
"""For an answer that has to be traced first."""
QUIET_MS = 800
"""What is shown stays as it is for so long: the page is at rest."""
Times = list[tuple[float, float]]
"""Of each move, milliseconds from the release: to the answer, and to the page at rest."""
WATCH = """
() => {
  const text = (where) => document.querySelector(where)?.textContent ?? '';
  const answer = () => text('.st-key-verdict') + '|' + text('[class*=st-key-bar-]');
  const busy = () => document.querySelector(
    '[data-stale=true], [data-testid=stSkeleton], [data-test-script-state=running]');
  const page = () => text('[data-testid=stMain]');
  // A badge in the rows tells what a value was before the move: it depends on where it came from.
  const whole = () => answer() + ['step', 'map', 'alternatives']
    .map((name) => text(`[class*=st-key-${name}-]`)).join('|');
  const channel = new MessageChannel();  // answers after the frame is painted
  const w = window.watched = { answer, whole, want: null };
  let quietSince = performance.now(), before = '';
  w.quiet = () => busy() || !text('[class*=st-key-map-]') ? 0 : performance.now() - quietSince;
  w.arm = (want) => Object.assign(
    w, { want, released: null, answered: null, settled: null, last: null });
  document.addEventListener('pointerup', (event) => {
    if (w.want && w.released === null) w.released = event.timeStamp;
  }, true);
  channel.port1.onmessage = ({ data }) => {
    const took = performance.now() - w.released;
    for (const name of data) w[name] ??= took;
  };
  const look = () => {
    const now = page();
    if (now !== before || busy()) quietSince = performance.now();
    before = now;
    if (w.want && w.released !== null) {
      const seen = [];
      // what goes away again was not the end
      if (answer() === w.want.answer) seen.push('answered'); else w.answered = null;
      if (whole() === w.want.whole && !busy()) seen.push('settled'); else w.settled = null;
      if (seen.length) channel.port2.postMessage(seen);
    }
    requestAnimationFrame(look);
  };
  look();
}
"""


def report(moves: int = MOVES, home: Path | None = None) -> str:
    """A sentence with p50 and p95; says so where it could not be measured.

    Args:
        moves: how many are timed.
        home: what was traced stays there and is taken from there; None takes an empty one.
    """
    if CHROMIUM is None:
        return "Slider: not measured, no Chromium."
    from playwright.sync_api import Error

    with contextlib.ExitStack() as stack:
        home = home or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            times = _measure(home, moves)
        except (RuntimeError, Error) as error:
            return f"Slider: not measured. {str(error).splitlines()[0]}"
    return told(times)


def told(times: Times) -> str:
    """The times of all moves in a sentence."""
    (answer50, rest50), (answer95, rest95) = np.percentile(times, (50, 95), axis=0)
    return (
        f"Length slider of Plan, 8B LoRA on an A100, all traced: from the release to the new "
        f"verdict and memory on screen p50 {answer50:.0f} ms, p95 {answer95:.0f} ms "
        f"(goal {GOAL_MS} ms); to the whole page with its map at rest p50 {rest50:.0f} ms, "
        f"p95 {rest95:.0f} ms; {len(times)} moves."
    )


def _measure(home: Path, moves: int) -> Times:
    from playwright.sync_api import sync_playwright

    model, data = home / "model", home / "rows.jsonl"
    model.mkdir(parents=True, exist_ok=True)
    config = {**LLAMA, **SIZES["8B"], "max_position_embeddings": 8192}
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    rng = random.Random(0)
    words = ("row", "of", "some", "length", "that", "varies")
    rows = [" ".join(rng.choices(words, k=rng.randint(40, 6000))) for _ in range(300)]
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    # pinned: the longest row's own length is a stop of its own only while nothing is pinned
    pinned = "&method=lora&pin=max_length=64&lang=en"
    query = f"?model={model}&data={data}&machine={MACHINE}{pinned}"
    with _dashboard(home) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        tab.goto(f"{address}/{query}")
        tab.locator("[class*=st-key-map-]").wait_for(timeout=PATIENCE_MS)
        tab.evaluate(WATCH)
        slider = _Slider(tab)
        return _timed(slider, _visited(slider), rng, moves)


@contextlib.contextmanager
def _dashboard(home: Path) -> Iterator[str]:
    """A server of its own, and its address."""
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
        if not server.stdout.readline():
            raise RuntimeError("the dashboard did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


class _Slider:
    """The page's slider, moved with the mouse."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self._input = tab.locator(".st-key-plan_length input")
        self.num_stops = int(self._input.get_attribute("max")) + 1

    def at(self) -> int:
        """The stop it stands on."""
        return int(self._input.input_value())

    def move(self, stop: int) -> None:
        """Drag it to a stop and let it go."""
        track = self.tab.locator(".st-key-plan_length [role=group] > div").bounding_box()
        thumb = self._input.locator("xpath=../..").bounding_box()
        x, y = thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2
        to = track["x"] + stop / (self.num_stops - 1) * track["width"]
        self.tab.mouse.move(x, y)
        self.tab.mouse.down()
        self.tab.mouse.move(to, y, steps=4)
        self.tab.mouse.up()
        if self.at() != stop:
            raise RuntimeError(f"the slider stands at {self.at()}, moved to {stop}")

    def settle(self) -> None:
        """Wait until the page has come to rest."""
        self.tab.wait_for_function(f"watched.quiet() > {QUIET_MS}", timeout=PATIENCE_MS)


def _visited(slider: _Slider) -> list[dict[str, str]]:
    """What the page shows at each stop; asked twice, the second time of all that is traced."""
    shown: list[dict[str, str]] = []
    for stop in [*range(slider.num_stops), *reversed(range(slider.num_stops))]:
        if stop != slider.at():
            slider.move(stop)
            # a run that was not yet noticed is not rest
            slider.tab.wait_for_timeout(QUIET_MS)
        slider.settle()
        shown.append(
            slider.tab.evaluate("({answer: watched.answer(), whole: watched.whole()})"),
        )
    there, back = shown[: slider.num_stops], shown[: slider.num_stops - 1 : -1]
    if there != back:
        raise RuntimeError("the page shows another answer the second time")
    return there


def _timed(slider: _Slider, shown: list[dict[str, str]], rng: random.Random, moves: int) -> Times:
    if len({page["answer"] for page in shown}) < 2:
        raise RuntimeError("all stops show the same answer: nothing to time")
    times: Times = []
    tab = slider.tab
    while len(times) < moves:
        at = slider.at()
        others = [n for n, page in enumerate(shown) if page["answer"] != shown[at]["answer"]]
        stop = rng.choice(others)
        tab.evaluate("want => watched.arm(want)", shown[stop])
        slider.move(stop)
        tab.wait_for_function("watched.settled !== null", timeout=PATIENCE_MS)
        tab.wait_for_timeout(QUIET_MS)
        took = tab.evaluate("[watched.answered, watched.settled]")
        if None in took:
            slider.settle()
            raise RuntimeError(f"the answer at stop {stop} was drawn and went away again")
        times.append((took[0], took[1]))
        if "-v" in sys.argv[1:]:
            print(f"{at} -> {stop}: {took[0]:.0f} {took[1]:.0f} ms", file=sys.stderr)
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=MOVES)
    parser.add_argument("--home", type=Path, help="keep what was traced here, for the next time")
    parser.add_argument("-v", action="store_true", help="tell each move")
    options = parser.parse_args()
    print(report(options.moves, options.home))
