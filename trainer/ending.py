"""How a process of a job ends: its exit code, and its last words where torchrun and people find them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import NoReturn

UNEXPECTED_EXIT_CODE = 1
"""Exit code after an error that the code did not foresee: it comes with a traceback."""
USER_ERROR_EXIT_CODE = 2
"""Exit code after an error with a message that says what to do."""
STALLED_EXIT_CODE = 3
"""Exit code of a worker that got no further within the configured time."""
PREEMPTED_EXIT_CODE = 75
"""Exit code of a worker that saved and stopped because of a signal (EX_TEMPFAIL: try again later)."""

_FOLLOWS_AFTER_S = 5
_AGENT_GRACE_S = 15
_PR_SET_PDEATHSIG = 1


def end_process(
    message: str,
    *,
    code: int,
    speak: bool = True,
    is_cause: bool = True,
    may_restart: bool = True,
    after_s: float = 0.0,
) -> NoReturn:
    """Ends the process at once, without waiting for threads that may hang, and closes its connections.

    Args:
        message: What went wrong; torchrun repeats it in its own summary.
        code: The exit code.
        speak: Whether to print the message.
        is_cause: False where this process only heard of a failure. torchrun calls the earliest failure the
            root cause and prints it last, so that such a process has to come after who had the failure.
        may_restart: False where another start would only repeat the failure (see ``stop_agent``).
        after_s: Seconds to leave to another process, which says the same and whose end ends this one, too.
    """
    if speak:
        sys.stderr.write(f"\nerror: {message}\n\n")
        sys.stderr.flush()
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file:
        when = int(time.time()) + (0 if is_cause else _FOLLOWS_AFTER_S)
        record = {"message": {"message": f"error: {message}", "extraInfo": {"timestamp": str(when)}}}
        with open(error_file, "w", encoding="utf-8") as file:
            json.dump(record, file)
    sys.stdout.flush()
    if not may_restart:
        # Only now: the agent ends its workers as soon as it hears it, this one with them.
        stop_agent()
    time.sleep(after_s)
    os._exit(code)


def note_preemption() -> None:
    """Leaves a word for the launcher, which torchrun's exit code does not tell: the job saved and stopped."""
    path = os.environ.get("SHARDFM_PREEMPTED_FILE")
    if path:
        with open(path, "w", encoding="utf-8"):
            pass


def stop_agent() -> None:
    """Asks this host's torchrun to end instead of restarting its workers, where it would do so.

    For what another start would only repeat, or should not undo: a mistake in the config, a preemption.
    """
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if may_restart and os.environ.get("LOCAL_RANK") == "0":
        os.kill(os.getppid(), signal.SIGTERM)


def end_agent() -> None:
    """Ends this host's torchrun, which has lost the store that its rendezvous needs.

    It would wait for an answer until the kernel gives the connection up, a quarter of an hour by default, and
    hold the host for as long. If it does not hear SIGTERM in that state, SIGKILL follows.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("LOCAL_RANK") != "0":
        return
    agent = os.getppid()
    started = f"$(cut -d' ' -f22 /proc/{agent}/stat)"
    # From a process of its own, since the agent waits for this one to end; not if the number is another's by then.
    late = f'first="{started}"; sleep {_AGENT_GRACE_S}; [ "$first" = "{started}" ] && kill -KILL {agent}'
    subprocess.Popen(["/bin/sh", "-c", late], start_new_session=True, stderr=subprocess.DEVNULL)
    os.kill(agent, signal.SIGTERM)


def end_with_agent() -> None:
    """Has the kernel kill this worker when its torchrun agent dies, however that happens.

    A worker that outlived its agent would go on writing into a ``run_dir`` in which the job may have been
    started again. Without torchrun this does nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
