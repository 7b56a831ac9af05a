"""Run commands side by side, each with a log, and end them cleanly.

A failed command does not stop the others. An interrupt (Ctrl-C, SIGTERM) is
handed on once to every process that runs; what does not end in time is killed
with all that it started.
"""

import fcntl
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from merit_modules.data.escaping import terminal

GRACE_S = 60.0  # for a process to end by itself after an interrupt
_POLL_S = 0.1
_TAIL_BYTES = 4096


def threads_each(n_processes):
    """Share this process's cores among others.

    Arguments
    ---------
    n_processes : int
        How many work at a time.

    Returns
    -------
    int
        Threads for each of them, 1 or more.

    Example
    -------
    >>> threads_each(10_000)
    1
    """
    if hasattr(os, "sched_getaffinity"):  # a batch system may allow a few
        n_cores = len(os.sched_getaffinity(0))
    else:
        n_cores = os.cpu_count() or 1
    return max(1, n_cores // n_processes)


class Task(NamedTuple):
    """A command to run.

    Arguments
    ---------
    name : str
        What to call it in messages; no other task's.
    command : list of str
        Program and arguments.
    log : Path
        Where its output is appended.
    """

    name: str
    command: list
    log: Path


class _Running(NamedTuple):
    """A task's process."""

    task: Task
    process: subprocess.Popen
    slot: dict
    start_s: float


def run_tasks(tasks, slots, check, grace_s=GRACE_S):
    """Run all tasks, at most one in each slot, telling how it goes.

    Arguments
    ---------
    tasks : list of Task
        What to run, in this order.
    slots : list of dict
        Environment variables of each slot, such as the GPU that it has.
    check : callable
        Called with each task that ended with exit code 0; returns None, or
        in a few words why it failed all the same.
    grace_s : float
        Seconds between an interrupt and the end by force.

    Returns
    -------
    dict or None
        ``{name: reason}`` of the tasks that failed; None if interrupted.

    Example
    -------
    >>> log = getfixture("tmp_path") / "log.txt"
    >>> tasks = [Task("good", ["true"], log), Task("bad", ["false"], log)]
    >>> failed = run_tasks(tasks, [{}], check=lambda task: None)
    good: started, see ...
    good: finished after 0 s
    bad: started, see ...
    bad: failed after 0 s: exit code 1: $ false ...
    >>> list(failed)
    ['bad']
    """
    waiting, slots, running, failed = list(tasks), list(slots), [], {}
    with _Interrupts() as interrupts:
        while (waiting or running) and not interrupts.count:
            while waiting and slots:
                task, slot = waiting.pop(0), slots.pop(0)
                process = _start(task, slot)
                if process is None:
                    failed[task.name] = f"{task.log} is in use by another run"
                    slots.append(slot)
                    continue
                running.append(_Running(task, process, slot, time.monotonic()))
            time.sleep(_POLL_S)
            for run in [r for r in running if r.process.poll() is not None]:
                running.remove(run)
                slots.append(run.slot)
                reason = _finish(run, check)
                if reason:
                    failed[run.task.name] = reason
        if interrupts.count:
            _end(running, interrupts, grace_s)
            return None
    return failed


class _Interrupts:
    """Counts signals that ask for an end, instead of raising anywhere."""

    def __init__(self):
        self.count = 0
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP on purpose.
            if number == signal.SIGHUP and (
                signal.getsignal(number) is signal.SIG_IGN
            ):
                continue
            self._before[number] = signal.signal(number, self._add)
        return self

    def __exit__(self, *exc_info):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _add(self, number, frame):
        self.count += 1


def _start(task, slot):
    """Start a task's process; None if its log belongs to another one."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "ab") as stream:
        try:
            # The child inherits the lock and holds it even if we are killed.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        stream.write(f"$ {' '.join(task.command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            task.command,
            env={**os.environ, **slot},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C reaches us alone; _end hands it on once.
            start_new_session=True,
        )
    given = "".join(f", {name}={value}" for name, value in slot.items())
    print(f"{task.name}: started{given}, see {task.log}", flush=True)
    return process


def _finish(run, check):
    """Tell how a task ended; return the reason if it failed."""
    code = run.process.returncode
    seconds = f"{time.monotonic() - run.start_s:.0f} s"
    reason = check(run.task) if code == 0 else _reason(code, run.task.log)
    if reason is None:
        print(f"{run.task.name}: finished after {seconds}", flush=True)
        return None
    reason = f"{reason} ({run.task.log})"
    print(f"{run.task.name}: failed after {seconds}: {reason}", flush=True)
    return reason


def _reason(code, log):
    """Say how a process ended, and what it said last."""
    ended = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    with open(log, "rb") as stream:
        stream.seek(max(0, os.path.getsize(log) - _TAIL_BYTES))
        text = stream.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text)]
    last = next(line for line in reversed(lines) if line)
    return f"{ended}: {terminal(last)}"


def _end(running, interrupts, grace_s):
    """Interrupt what runs; kill it after the grace, or if asked again."""
    asked = interrupts.count
    for run in running:
        _signal_group(run.process, signal.SIGINT)
    deadline_s = time.monotonic() + grace_s
    for run in running:
        while run.process.poll() is None and (
            time.monotonic() < deadline_s and interrupts.count == asked
        ):
            time.sleep(_POLL_S)
        # Also whatever it started and did not end.
        _signal_group(run.process, signal.SIGKILL)
        run.process.wait()


def _signal_group(process, number):
    try:
        os.killpg(process.pid, number)  # it leads a group of its own
    except ProcessLookupError:
        return
