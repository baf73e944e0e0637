"""Runs the rows of a table: what is missing is trained and evaluated, what was stopped goes on, what is there stays."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from igm import UserError
from igm.evaluation.records import SUMMARY_NAME, read_json
from igm.files import locked
from igm.reproduction.rows import Place, Row, Table, Training
from igm.training.checkpoints import weights_fault

USER_ERROR = 2  # exit code of a command of the project that was asked for something that cannot be
GRACE = 3  # seconds that a command may take to end by itself
TAIL = 8192  # bytes of what a command says at last


class Refused(UserError):
    """A command of the project ended with one line to its user."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row: its results folder, or why there is none."""

    row: Row
    folder: Path | None
    reason: str = ""


def run_rows(rows: Sequence[Row], table: Table, place: Place) -> list[Outcome]:
    """Bring every row to its results; the same call goes on where one was stopped.

    Raises:
        UserError: a command of a row refuses, and the row is not optional; or it failed.
        KeyboardInterrupt: stopped; its notes say how to go on.
    """
    found = []
    for row in rows:
        try:
            found.append(Outcome(row, run_row(row, table, place)))
        except Refused as error:
            if not row.optional:
                raise Refused(f"row {row.name}: {error}") from None
            print(f"Row {row.name} is left out: {error}", flush=True)
            found.append(Outcome(row, None, str(error)))
        except KeyboardInterrupt as stop:
            stop.add_note(f"row {row.name} is not finished; the same command goes on")
            raise
    return found


def run_row(row: Row, table: Table, place: Place) -> Path:
    """Train and evaluate a row as far as it is not done; return its results folder.

    Raises:
        UserError: another process is at it, or a command of it refuses or fails.
    """
    words = row.words(place, table.num_images)
    done = results_of(row, words, place)
    if done is not None:
        print(f"Row {row.name}: finished, {done}", flush=True)
        return done
    with locked(row.folder(place)):
        if row.training is not None and not is_trained(row.training, place):
            call(launched(row.training, place))
        call([sys.executable, *words])
    done = results_of(row, words, place)
    if done is None:
        raise UserError(f"row {row.name}: {in_words(words)} left no {SUMMARY_NAME} of its own in {row.folder(place)}")
    return done


def results_of(row: Row, words: Sequence[str], place: Place) -> Path | None:
    """The results folder that this very evaluation command has finished; None: there is none yet."""
    for path in sorted(row.folder(place).glob(f"eval-*/{SUMMARY_NAME}")):
        if list(read_json(path).get("command") or ())[1:] == list(words[1:]):
            return path.parent
    return None


def is_trained(training: Training, place: Place) -> bool:
    """Whether the last checkpoint is there, whole."""
    checkpoint = training.checkpoint(place)
    return checkpoint.is_dir() and weights_fault(checkpoint) is None


def launched(training: Training, place: Place) -> list[str]:
    """The training's command line, under accelerate's launcher where it has several processes."""
    words = training.words(place)
    number = min(place.num_processes, training.processes)
    if number == 1:
        return [sys.executable, *words]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={number}"]
    return [sys.executable, *launcher, *words]


def in_words(command: Sequence[str]) -> str:
    """A command line as people type it."""
    words = ["python" if word == sys.executable else word for word in command]
    if words[1:3] == ["-m", "accelerate.commands.launch"]:
        words[:3] = ["accelerate", "launch"]
    return shlex.join(words if words[0] in ("python", "accelerate") else ["python", *words])


def call(command: Sequence[str]) -> None:
    """Run a command, whose output is shown as it comes; it ends with this process.

    Raises:
        Refused: it ended with one line to its user. UserError: it failed otherwise.
    """
    print(f"\n$ {in_words(command)}", flush=True)
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            said = b""
            for part in stderr_of(process):
                sys.stderr.write(part.decode(errors="replace"))
                sys.stderr.flush()
                said = (said + part)[-TAIL:]
            code = process.wait()
        except BaseException:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)  # Ctrl-C has reached it, too
            process.terminate()  # a command of the project keeps what it has done
            raise
    if code == USER_ERROR:
        raise Refused(last_line(said.decode(errors="replace")))
    if code:
        raise UserError(
            f"{in_words(command)} ended with exit code {code}; mend the cause, then the same command goes on"
        )


def stderr_of(process: subprocess.Popen) -> Iterator[bytes]:
    """What a process writes to its standard error, as it comes."""
    if process.stderr is None:
        raise ValueError("the process was started without a pipe")
    while part := os.read(process.stderr.fileno(), 65536):
        yield part


def last_line(text: str) -> str:
    """The error in one line, without the word that says so."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no reason given"])[-1].removeprefix("error: ").strip()
