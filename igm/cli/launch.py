"""How a script starts, and how it ends on a mistake of its user or when it is stopped."""

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import psutil  # a dependency of accelerate

from igm import UserError, warn
from igm.models import ModelError
from igm.training.faults import TrainingError

# torchrun, without the stack trace of its own that it prints where a process has ended with an error.
TORCHRUN = """
import sys
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError as error:
    sys.exit(min((failure.exitcode for failure in error.failures.values()), default=1, key=abs))
"""


class Stopped(KeyboardInterrupt):
    """The system asks the process to end (SIGTERM)."""


def run(main: Callable[[], None], *user_errors: type[Exception]) -> None:
    """Run a script's main; a mistake of the user ends it with one line and exit code 2, without a stack trace.

    Ctrl-C and SIGTERM end it with one line, too, and exit codes 130 and 143; notes on the exception say how to go on.
    """
    for stream in (sys.stdout, sys.stderr):  # a locale without some character must not end a run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    start_cpu_processes()
    mistakes: tuple[type[Exception], ...] = (UserError, ModelError, TrainingError, FloatingPointError, *user_errors)
    try:
        former = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        former = None
    try:
        main()
        sys.stdout.flush()
    except mistakes as error:
        fail(str(error))
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Stopped)
        words = ["ended by SIGTERM" if terminated else "interrupted", *getattr(error, "__notes__", [])]
        end("; ".join(words), 128 + (signal.SIGTERM if terminated else signal.SIGINT))
    except BrokenPipeError:  # nobody reads on: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno is None:
            raise
        fail(f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another --output_dir")
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


def stop(number: int, frame: object) -> NoReturn:
    """What SIGTERM does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it at once
    raise Stopped


def start_cpu_processes() -> None:
    """Make `accelerate launch --cpu --num_processes=N` start N processes; without MPI accelerate starts one, silently.

    N stands only on the command line of the launcher, which is this process's parent.
    """
    launched = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if not launched or any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        return
    found = re.search(r"--num_processes[=\s](\d+)", " ".join(psutil.Process(os.getppid()).cmdline()))
    if found is None:
        warn("accelerate launch --cpu started one process; for several, give --num_processes=N on its command line")
        return
    command = ["-c", TORCHRUN, f"--nproc_per_node={found[1]}", f"--master_port={os.environ['MASTER_PORT']}"]
    os.execv(sys.executable, [sys.executable, *command, *sys.argv])


def fail(message: str) -> NoReturn:
    """Print one line and leave with exit code 2."""
    end(f"error: {(message.strip().splitlines() or ['unknown'])[-1]}", 2)


def end(line: str, code: int) -> NoReturn:
    """Print one line and leave (at once under a launcher, so that other processes of the run do not wait)."""
    if code == 2 or os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)
    if "RANK" in os.environ:
        os._exit(code)
    for child in multiprocessing.active_children():  # a loader process that was interrupted, too, may never end
        child.terminate()
    sys.unraisablehook = lambda _: None  # what half-made objects say when they go is no news any more
    sys.exit(code)
