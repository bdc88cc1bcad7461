"""The worker: one child process that holds torch and transformers, so that its parent need not.

Starts processes.

Parent and child speak JSON lines over pipes. The child sees no GPU, leaves when its parent goes
(its standard input ends) and is started again after a crash. Run as `python -m
advisor.simulate.worker` it is the child.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from advisor import errors, records
from advisor.errors import AdvisorError, WorkerError

Progress = Callable[[str, dict[str, Any]], None]


class Worker:
    """Parent side. Starts the child at the first call; calls from several threads take turns."""

    def __init__(self, *, home: Path | None = None) -> None:
        self._home = home
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        timeout_seconds: float = 600,
        on_progress: Progress | None = None,
    ) -> Any:
        """Ask the child.

        Raises:
            AdvisorError: what the child raised, as the same class.
            WorkerError: the child died or did not answer in time, or `cancel` ended it.
        """
        with self._lock:
            if self._cancelled.is_set():
                raise WorkerError("worker.cancelled")
            process = self._running()
            if self._cancelled.is_set():  # meanwhile: this child was not there to be ended
                self._stop()
                raise WorkerError("worker.cancelled")
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"method": method, "params": params}) + "\n")
                process.stdin.flush()
            except BrokenPipeError as error:
                self._stop()
                raise WorkerError("worker.ended", method=method) from error
            while True:
                try:
                    line = self._lines.get(timeout=timeout_seconds)
                except queue.Empty:
                    self._stop()
                    raise WorkerError(
                        "worker.no_answer", method=method, seconds=timeout_seconds
                    ) from None
                if line is None:
                    code = process.wait()
                    self._stop()
                    if self._cancelled.is_set():
                        raise WorkerError("worker.cancelled")
                    raise WorkerError("worker.died", method=method, code=code)
                answer = json.loads(line)
                if "progress" in answer:
                    if on_progress is not None:
                        on_progress(*answer["progress"])
                    continue
                if "error" in answer:
                    raise AdvisorError.decode(answer["error"])
                return errors.decode(answer["result"])

    def cancel(self) -> None:
        """End the child in the middle of its work; calls fail until `resume`."""
        self._cancelled.set()
        process = self._process
        if process is not None:
            process.kill()

    def resume(self) -> None:
        """Let calls through again after `cancel`; the next one starts a new child."""
        self._cancelled.clear()

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()  # of one that died between two calls, the pipes are still open
        environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")
        environment["PYTHONUNBUFFERED"] = "1"
        if self._home is not None:
            environment["TRAINING_ADVISOR_HOME"] = str(self._home)
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "advisor.simulate.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        threading.Thread(
            target=_pump, args=(self._process.stdout, self._lines), daemon=True
        ).start()
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _pump(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    with contextlib.suppress(ValueError):  # closed while we waited
        for line in stream:
            lines.put(line)
    lines.put(None)


# -- child side -------------------------------------------------------------------------------


def _describe_model(params: dict[str, Any], _progress: Progress) -> Any:
    from advisor.model import describe_model

    return describe_model(params["path"], params["task"], params.get("num_labels"))


def _describe_data(params: dict[str, Any], _progress: Progress) -> Any:
    from advisor.data import describe_data
    from advisor.model import describe_model

    return describe_data(
        params["path"],
        model=describe_model(params["model_path"], params["task"]),
        task=params["task"],
        text_column=params.get("text_column"),
        validation_path=params.get("validation_path"),
        label_column=params.get("label_column"),
    )


def _infer_task(params: dict[str, Any], _progress: Progress) -> Any:
    from advisor.infer import infer_task

    return infer_task(**params)


def _verify_arguments(params: dict[str, Any], _progress: Progress) -> Any:
    from advisor.arguments import verify

    verify(params["arguments"], params["format"])


def _profile(params: dict[str, Any], progress: Progress) -> Any:
    from advisor.simulate.make import make_profile

    return make_profile(params["structure"], progress)


def _baseline(_params: dict[str, Any], progress: Progress) -> Any:
    from advisor.simulate.calibrate import measure_baseline

    progress("baseline", {})
    return measure_baseline()


def _calibrate(_params: dict[str, Any], progress: Progress) -> Any:
    from advisor.simulate.calibrate import measure_cpu

    progress("calibrate", {})
    return measure_cpu()


METHODS: dict[str, Callable[[dict[str, Any], Progress], Any]] = {
    "describe_model": _describe_model,
    "describe_data": _describe_data,
    "infer_task": _infer_task,
    "verify_arguments": _verify_arguments,
    "profile": _profile,
    "baseline": _baseline,
    "calibrate": _calibrate,
}


def main() -> None:
    """Answer questions from standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not reach the protocol
    questions: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            questions.put(line)
        os._exit(0)  # the parent is gone: leave, whatever is being traced

    threading.Thread(target=listen, daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    while True:
        line = questions.get()
        assert line is not None
        question = json.loads(line)
        try:
            result = METHODS[question["method"]](
                question["params"], lambda name, values: send({"progress": [name, values]})
            )
        except AdvisorError as error:
            send({"error": error.encode()})
        else:
            send({"result": errors.encode(records.encode(result))})


if __name__ == "__main__":
    main()
