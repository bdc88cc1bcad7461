"""The real dashboard in a real browser: what a person does with it, from first load to resume.

No fixed waits: each step waits for what it needs to see. The runs train the demo on the CPU.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ANSWER_MS, STEP_MS, PATIENCE_MS = 180_000, 120_000, 30_000
START = {"en": "Start training", "zh": "\u5f00\u59cb\u8bad\u7ec3"}
LOCALES = {"en": "en-US", "zh": "zh-CN"}
TRAINING = "?pin=max_steps%3D300&pin=logging_steps%3D1"


class Dashboard:
    """The server as a user starts it, with a data directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = dict(os.environ, TRAINING_ADVISOR_HOME=str(home))

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "--port", str(self.port)],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("Training Advisor is at"), line

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=30)
        self.process.stdout.close()

    def runs(self) -> list[Path]:
        return sorted((self.home / "runs").glob("*/run.json"))

    def run_command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the system's chromium package or set CHROMIUM")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)  # a slow host is no failure
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    from advisor.errors import InputError
    from trainer import launch

    dashboard = Dashboard(tmp_path_factory.mktemp("home"))
    dashboard.start()
    yield dashboard
    dashboard.end()
    for path in dashboard.runs():
        with contextlib.suppress(InputError):  # it has ended already
            launch.stop(path.parent, force=True)


@pytest.fixture
def open_tab(chromium, dashboard):
    """Opens a page of the dashboard in a fresh browser context."""
    contexts = []

    def open_at(path="/", lang="en", mode="light", width=1440, height=900):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=mode,
            locale=LOCALES[lang],
            accept_downloads=True,
        )
        contexts.append(context)
        tab = context.new_page()
        tab.asked = []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.goto(dashboard.url + path)
        return tab

    yield open_at
    for context in contexts:
        context.close()


def start_button(tab, lang="en"):
    return tab.get_by_role("button", name=START[lang]).first


def answered(tab, lang="en"):
    """Wait for the plan, and for all that is drawn after it.

    A popover opened before would close.
    """
    from playwright.sync_api import expect

    expect(start_button(tab, lang)).to_be_visible(timeout=ANSWER_MS)
    expect(tab.locator(".st-key-use_another")).to_be_visible(timeout=ANSWER_MS)
    ready = '[data-testid="stApp"][data-test-script-state="notRunning"]'
    expect(tab.locator(ready)).to_have_count(1, timeout=ANSWER_MS)


def heading(tab):
    return tab.locator("h1").first


def row_value(tab, field):
    return tab.locator(f".st-key-why_{field} button").first


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_first_load(open_tab, lang, mode):
    from playwright.sync_api import expect

    tab = open_tab(lang=lang, mode=mode)
    answered(tab, lang)
    expect(tab.locator(".js-plotly-plot")).not_to_have_count(0)
    expect(heading(tab)).to_contain_text("\u8fd9\u53f0\u673a\u5668" if lang == "zh" else "machine")
    expect(tab.get_by_test_id("stException")).to_have_count(0)
    foreign = [
        url for url in tab.asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))
    ]
    assert foreign == []


def test_colours_of_charts_follow_the_mode(open_tab):
    """The slots of app.frames are filled by the front end; this breaks first if that changes."""
    fills = {}
    for mode in ("light", "dark"):
        tab = open_tab(mode=mode)
        answered(tab)
        bar = tab.locator(".st-key-bar-" + mode + " .bars path").nth(1)
        bar.wait_for(timeout=STEP_MS)
        fills[mode] = bar.evaluate("e => getComputedStyle(e).fill")
    assert fills["light"] != fills["dark"]
    assert not {f for f in fills.values() if re.fullmatch(r"rgb\(0, 0, \d+\)", f)}


@pytest.mark.parametrize("path", ["/", "/arguments", "/run", "/runs"])
def test_phone_does_not_scroll_sideways(open_tab, path):
    tab = open_tab(path, width=390, height=844)
    if path == "/":
        answered(tab)
    heading(tab).wait_for(timeout=STEP_MS)
    main = tab.get_by_test_id("stMain")
    assert main.evaluate("e => e.scrollWidth - e.clientWidth") <= 0


def test_pin_moves_the_other_values(open_tab):
    from playwright.sync_api import expect

    tab = open_tab()
    answered(tab)
    before = row_value(tab, "effective_batch_size").inner_text()
    # On the text: Streamlit 1.67 drops a first click on the arrow beside it.
    row_value(tab, "effective_batch_size").click(position={"x": 3, "y": 17})
    number = tab.locator(".st-key-type_effective_batch_size input")
    expect(number).to_have_value(re.compile(r"^\d+$"))  # it is filled after it is drawn
    wanted = str(2 * int(number.input_value()))
    number.fill(wanted)
    number.press("Enter")
    expect(row_value(tab, "effective_batch_size")).to_contain_text(wanted, timeout=ANSWER_MS)
    expect(tab).to_have_url(re.compile(rf"pin=effective_batch_size(=|%3D){wanted}"))
    expect(tab.get_by_text(re.compile(r"^was ")).first).to_be_visible()
    assert wanted not in before
    tab.reload()
    answered(tab)
    expect(row_value(tab, "effective_batch_size")).to_contain_text(wanted)


def download(tab, name, filename):
    """The text that the Export popover saves in one format."""
    body = tab.get_by_test_id("stPopoverBody")
    if not body.is_visible():
        tab.get_by_role("button", name="Export").click()
    body.get_by_role("radio", name=name).or_(body.get_by_role("button", name=name)).first.click()
    button = body.get_by_role("button", name=f"Download {filename}")
    button.wait_for(timeout=STEP_MS)
    with tab.expect_download() as saved:
        button.click()
    assert saved.value.suggested_filename == filename
    return Path(saved.value.path()).read_text(encoding="utf-8")


def test_downloaded_arguments_are_the_command_lines(open_tab, dashboard, tmp_path):
    tab = open_tab()
    answered(tab)
    arguments = download(tab, "args.json", "args.json")
    plan = download(tab, "plan.json", "plan.json")
    (tmp_path / "plan.json").write_text(plan, encoding="utf-8")
    exported = dashboard.run_command(
        "advisor", "export", str(tmp_path / "plan.json"), "--format", "hf-json"
    )
    assert json.loads(arguments) == json.loads(exported)


OLD_ARGUMENTS = {
    "evaluation_strategy": "epoch",
    "warmup_ratio": 0.1,
    "group_by_length": True,
    "no_cuda": True,
    "gradient_checkpointing": True,
    "fp16": True,
    "max_steps": 300,
    "logging_steps": 1,
}


@pytest.mark.full
def test_old_arguments_are_opened_set_and_started(open_tab, dashboard):
    from playwright.sync_api import expect

    tab = open_tab("/arguments")
    expect(start_button(tab)).to_be_visible(timeout=ANSWER_MS)
    tab.get_by_role("button", name="Open a file").click()
    text = tab.get_by_label("Or its text")
    text.fill(json.dumps(OLD_ARGUMENTS))
    text.press("Control+Enter")
    tab.get_by_role("button", name="Check it").click()
    findings = tab.locator(".st-key-findings")
    expect(findings).to_contain_text("warmup_steps", timeout=ANSWER_MS)
    for old in set(OLD_ARGUMENTS) - {"max_steps", "logging_steps"}:
        expect(findings.get_by_text(old, exact=True).first).to_be_attached()
    tab.get_by_role("button", name="Fill the form").click()
    expect(tab).to_have_url(re.compile("pin=warmup_steps"), timeout=ANSWER_MS)
    search = tab.get_by_placeholder("Name, value, reason or help")
    search.fill("label_smoothing")
    search.press("Enter")
    card = tab.locator(".st-key-argument_card")
    expect(card.locator("h3")).to_have_text("label_smoothing_factor", timeout=ANSWER_MS)
    value = card.get_by_role("textbox", name="Value", exact=True)
    expect(value).to_have_value("0.0")  # that of the argument before is gone
    value.fill("0.1")
    value.press("Enter")
    expect(card.get_by_role("button", name="Unpin")).to_be_visible(timeout=ANSWER_MS)
    before = set(dashboard.runs())
    start_button(tab).click()
    tab.get_by_role("dialog").get_by_role("button", name="Start", exact=True).click()
    expect(tab).to_have_url(re.compile(r"/run\?.*run="), timeout=STEP_MS)
    (run,) = set(dashboard.runs()) - before
    arguments = json.loads((run.parent / "args.json").read_text(encoding="utf-8"))
    assert arguments["label_smoothing_factor"] == 0.1
    assert arguments["train_sampling_strategy"] == "group_by_length"
    assert arguments["activation_checkpointing"] is True
    assert arguments["warmup_steps"] == 0.1
    dashboard.run_command("trainer.runs", "stop", run.parent.name)


def launched(tab):
    """Start a run from Plan; the run's page when it trains."""
    from playwright.sync_api import expect

    answered(tab)
    start_button(tab).click()
    dialog = tab.get_by_role("dialog")
    expect(dialog.get_by_text("-m trainer")).to_be_visible()
    dialog.get_by_role("button", name="Start", exact=True).click()
    expect(tab).to_have_url(re.compile(r"/run\?.*run="), timeout=STEP_MS)
    expect(heading(tab)).to_have_text(re.compile(r"^Step \d"), timeout=STEP_MS)


def shown_step(tab):
    return int(re.search(r"tep ([\d,]+)", heading(tab).inner_text()).group(1).replace(",", ""))


def wait_past(tab, step):
    """Wait until the page, without a click, shows a later step."""
    tab.wait_for_function(
        """step => {
            const found = document.querySelector('h1')?.innerText.match(/^Step ([\\d,]+)/);
            return found && Number(found[1].replace(',', '')) > step;
        }""",
        arg=step,
        timeout=STEP_MS,
    )


POINTS = """() => Math.max(0, ...[
    ...document.querySelectorAll('[class*=lane_loss] .js-plotly-plot')
].flatMap(e => (e._fullData ?? []).map(t => t.x.length)))"""


def test_launch_watch_reload_stop_and_resume(open_tab):
    from playwright.sync_api import expect

    tab = open_tab("/" + TRAINING)
    launched(tab)
    tab.wait_for_function(f"() => ({POINTS})() > 2", timeout=STEP_MS)
    points = tab.evaluate(POINTS)
    tab.wait_for_function(f"n => ({POINTS})() > n", arg=points, timeout=STEP_MS)
    step = shown_step(tab)
    tab.reload()
    wait_past(tab, step)

    tab.get_by_role("button", name="Stop", exact=True).click()
    tab.get_by_role("dialog").get_by_role("button", name="Stop and save").click()
    expect(heading(tab)).to_have_text(re.compile(r"^Stopped at step \d"), timeout=STEP_MS)
    stopped_at = shown_step(tab)
    assert stopped_at >= step
    expect(tab.get_by_role("button", name="Stop", exact=True)).to_have_count(0)

    tab.get_by_role("button", name="Resume").click()
    wait_past(tab, stopped_at)
    tab.get_by_role("button", name="Stop", exact=True).click()
    tab.get_by_role("dialog").get_by_role("button", name="Stop and save").click()
    expect(heading(tab)).to_have_text(re.compile(r"^Stopped at step \d"), timeout=STEP_MS)


def test_run_goes_on_when_the_server_is_killed(open_tab, dashboard):
    from playwright.sync_api import expect

    tab = open_tab("/" + TRAINING)
    launched(tab)
    url, step = tab.url, shown_step(tab)
    dashboard.end(signal.SIGKILL)
    dashboard.start()
    tab.goto(url)
    wait_past(tab, step)
    other = open_tab("/run")
    expect(heading(other)).to_have_text(re.compile(r"^Step \d"), timeout=STEP_MS)
    other.goto(dashboard.url + "/runs")
    expect(heading(other)).to_contain_text("is training", timeout=STEP_MS)
    tab.get_by_role("button", name="Stop", exact=True).click()
    tab.get_by_role("dialog").get_by_role("button", name="Stop and save").click()
    expect(heading(tab)).to_have_text(re.compile(r"^Stopped at step \d"), timeout=STEP_MS)


def opened_dialog(tab):
    answered(tab)
    start_button(tab).click()
    return tab.get_by_role("dialog").get_by_role("button", name="Start", exact=True)


def stop_all(dashboard, known):
    from trainer import launch, runs

    made = [path.parent for path in dashboard.runs() if path not in known]
    for run_dir in made:
        if runs.read_status(run_dir).state in runs.ACTIVE:
            launch.stop(run_dir, force=True)
    return made


@pytest.mark.full
def test_double_click_makes_one_run_and_two_tabs_make_two(open_tab, dashboard, table_row):
    from playwright.sync_api import expect

    from trainer import runs

    known = dashboard.runs()
    tab = open_tab("/" + TRAINING)
    opened_dialog(tab).dblclick(delay=0)
    expect(tab).to_have_url(re.compile(r"/run\?.*run="), timeout=STEP_MS)
    expect(tab.get_by_role("button", name="Stop", exact=True)).to_be_visible(timeout=STEP_MS)
    assert len(stop_all(dashboard, known)) == 1
    table_row(
        "faults",
        "double click on Start",
        "the first click takes the dialog's ticket",
        "one run",
        "nothing",
    )

    known = dashboard.runs()
    tabs = [open_tab("/" + TRAINING) for _ in range(2)]
    buttons = [opened_dialog(tab) for tab in tabs]
    for button in buttons:
        button.evaluate("element => setTimeout(() => element.click(), 0)")
    for tab in tabs:
        expect(tab).to_have_url(re.compile(r"/run\?.*run="), timeout=STEP_MS)
        expect(tab.get_by_role("button", name="Stop", exact=True)).to_be_visible(timeout=STEP_MS)
    assert tabs[0].url != tabs[1].url
    made = [path.parent for path in dashboard.runs() if path not in known]
    assert {runs.read_status(run_dir).state for run_dir in made} <= {"starting", "running"}
    assert len(stop_all(dashboard, known)) == 2
    table_row(
        "faults",
        "two tabs start at once",
        "each makes a directory of its own",
        "two runs; the dialog warns when one trains already",
        "nothing",
    )


@pytest.mark.full
def test_page_of_a_run_that_is_killed_with_everything_then_deleted(open_tab, dashboard, table_row):
    import psutil
    from playwright.sync_api import expect

    known = dashboard.runs()
    small = "&pin=max_length%3D64&pin=effective_batch_size%3D2"
    tab = open_tab("/" + TRAINING + small + "&pin=save_strategy%3Dsteps&pin=save_steps%3D2")
    launched(tab)
    (record_file,) = [path for path in dashboard.runs() if path not in known]
    wait_past(tab, 3)
    url, data = tab.url, json.loads(record_file.read_text())
    for name in ("supervisor", "trainer"):
        psutil.Process(data[name]["pid"]).kill()
    dashboard.end(signal.SIGKILL)
    dashboard.start()
    tab.goto(url)
    expect(heading(tab)).to_have_text(re.compile("^The process is gone"), timeout=STEP_MS)
    expect(tab.get_by_text("left no word")).to_be_visible()
    expect(tab.get_by_text(re.compile("goes on from the checkpoint of step"))).to_be_visible()
    table_row(
        "faults", "kill -9 of trainer, supervisor and server together",
        "the page is rebuilt from the directory; Resume is offered, and clicked",
        "lost, with the step that Resume goes on from", "the steps after the last checkpoint",
    )  # fmt: skip
    tab.get_by_role("button", name="Resume").click()
    wait_past(tab, 4)
    # In one move: files of the running trainer would come up while a tree is removed.
    record_file.parent.rename(dashboard.home / "removed")
    expect(tab.get_by_text(re.compile("There is no run"))).to_be_visible(timeout=STEP_MS)
    expect(tab.get_by_role("button", name="Stop", exact=True)).to_have_count(0)


@pytest.mark.full
def test_names_and_log_lines_are_text_and_nothing_else(open_tab, dashboard, table_row):
    """HTML and Markdown in every text of a page's: no element, no request, no script."""
    from playwright.sync_api import expect

    nasty = (
        '<img src="http://evil.example/a.png" onerror="document.title=1"><script>alert(1)</script>'
        "![x](http://evil.example/b.png) [click](javascript:alert(1)) :red[big] $x^2$"
    )
    from urllib.parse import quote

    from trainer import record, runs

    run_dir = runs.create_run("nasty", plan=None, arguments={}, root=dashboard.home / "runs")
    (run_dir / record.OUTPUT).write_text(f"ValueError: {nasty}\n")
    (run_dir / record.EVENTS).write_text(
        "".join(
            json.dumps({"v": 1, "event": kind, "time": 1.0, "step": 1, **values}) + "\n"
            for kind, values in (
                ("start", {"device_name": nasty}),
                ("warning", {"code": nasty, "message": nasty}),
                ("end", {"reason": "failed", "error": nasty}),
            )
        )
    )
    record.update(run_dir, state="failed", exit_code=1)
    odd = run_dir.with_name(f"20260101T000000Z-{nasty[:40].replace('/', '_')}")
    shutil.copytree(run_dir, odd)
    paths = [
        f"/run?run={quote(run_dir.name)}",
        f"/run?run={quote(odd.name)}",
        f"/run?run={quote(nasty)}",
        "/runs",
        f"/?model={quote('/tmp/' + nasty)}",
        f"/?data={quote('/tmp/' + nasty)}",
        f"/?machine={quote(nasty)}",
        f"/?text_column={quote(nasty)}",
        f"/?pin={quote(nasty[:30] + '=' + nasty)}",
        f"/?pin=learning_rate={quote(nasty)}",
    ]
    try:
        for path in paths:
            tab = open_tab(path)
            heading(tab).wait_for(timeout=STEP_MS)
            ready = '[data-testid="stApp"][data-test-script-state="notRunning"]'
            expect(tab.locator(ready)).to_have_count(1, timeout=ANSWER_MS)
            if path == paths[0]:
                expect(tab.get_by_text("onerror=").first).to_be_visible()
            assert not [url for url in tab.asked if "evil.example" in url.split("?")[0]], path
            made = tab.locator('img[src*="evil"], [onerror], a[href^="javascript"]')
            assert made.count() == 0, path
            for link in tab.locator('a[href*="evil"]').all():
                assert link.inner_text() == link.get_attribute("href"), path
            assert tab.locator("script:text('alert')").count() == 0
            assert tab.title() != "1"
            expect(tab.get_by_test_id("stException")).to_have_count(0)
    finally:
        shutil.rmtree(run_dir)
        shutil.rmtree(odd)
    table_row(
        "security",
        "HTML and Markdown in names, fields, pins, events, log lines",
        f"{len(paths)} pages in Chromium, in the place of every text",
        "shown letter for letter: no element, no request; a bare address links to itself",
    )


def last_accuracy(path):
    lines = map(json.loads, (path / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["eval_accuracy"] for line in lines if line["event"] == "eval"][-1]


def test_classification_from_a_csv_and_a_checkpoint_to_its_accuracy(
    open_tab, dashboard, reviews, tmp_path
):
    """From Plan to Run in the browser; then the same question from the command line."""
    from playwright.sync_api import expect

    question = {"model": reviews / "bert", "data": reviews / "reviews.csv"}
    pin = "learning_rate=0.002"
    tab = open_tab("/?" + urlencode({**question, "pin": pin}))
    answered(tab)
    expect(tab.get_by_text("2 classes")).to_be_visible()
    start_button(tab).click()
    tab.get_by_role("dialog").get_by_role("button", name="Start", exact=True).click()
    expect(tab).to_have_url(re.compile(r"/run\?.*run="), timeout=STEP_MS)
    expect(heading(tab)).to_have_text(re.compile(r"^Finished"), timeout=STEP_MS)
    run_dir = dashboard.home / "runs" / parse_qs(urlsplit(tab.url).query)["run"][0]
    accuracy = last_accuracy(run_dir)
    assert accuracy >= 0.8
    lane = tab.locator("[class*=lane_metric] .js-plotly-plot")
    expect(lane).to_have_count(1)
    metric = tab.get_by_test_id("stMetric").filter(has_text="Accuracy")
    expect(metric).to_contain_text(f"{accuracy:.3f}")

    asked = [part for name, value in question.items() for part in (f"--{name}", str(value))]
    plan = dashboard.run_command("advisor", "recommend", *asked, "--pin", pin, "--json")
    (tmp_path / "plan.json").write_text(plan, encoding="utf-8")
    arguments = dashboard.run_command(
        "advisor", "export", str(tmp_path / "plan.json"), "--format", "hf-json"
    )
    assert json.loads(arguments)["task"] == "text-classification"
    (tmp_path / "args.json").write_text(arguments, encoding="utf-8")
    said = dashboard.run_command("trainer", str(tmp_path / "args.json"))
    assert last_accuracy(Path(said.splitlines()[0])) == accuracy
