"""How a script starts, and how it ends on a mistake of its user."""

import os
import re
import sys
from collections.abc import Callable

import psutil  # a dependency of accelerate

from igm import UserError, warn
from igm.models import ModelError
from igm.training.loop import TrainingError


def run(main: Callable[[], None], *user_errors: type[Exception]) -> None:
    """Run a script's main; a mistake of the user ends it with one line and exit code 2, without a stack trace."""
    start_cpu_processes()
    try:
        main()
    except (UserError, ModelError, TrainingError, FloatingPointError, *user_errors) as error:
        fail(str(error))
    except OSError as error:
        if error.errno is None:
            raise
        fail(f"{error.strerror}: {error.filename or 'while writing'}; free space or choose another --output_dir")


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
    command = ["-m", "torch.distributed.run", f"--nproc_per_node={found[1]}"]
    command.append(f"--master_port={os.environ['MASTER_PORT']}")
    os.execv(sys.executable, [sys.executable, *command, *sys.argv])


def fail(message: str) -> None:
    """Print one line and leave with exit code 2 (at once, so that other processes of the run do not wait)."""
    print(f"error: {message.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
    if "RANK" in os.environ:
        os._exit(2)
    sys.exit(2)
