"""Many recordings through one model: read ahead, batched, errors apart."""

import queue
import threading
from typing import NamedTuple

from merit_modules.errors import InputError


class Outcome(NamedTuple):
    """How it went with a recording.

    Arguments
    ---------
    key : object
        What the caller calls it.
    analysis : Analysis or None
        The result; None after an error.
    error : InputError or None
        Why there is none.
    """

    key: object
    analysis: object
    error: InputError | None


class _Event(NamedTuple):
    """A window to compute, or (without one) the end of a recording."""

    key: object
    recording: object
    window: tuple | None = None
    error: InputError | None = None


def run_recordings(
    items, engine, tasks, batch_samples, n_readers=0, progress=None
):
    """Run recordings of any lengths, one error never ending the others.

    Arguments
    ---------
    items : iterable of tuple
        Key, and a function without arguments that opens the
        :class:`~merit_modules.inference.recording.Recording`.
    engine : Engine
        Runs the windows.
    tasks : sequence of str
        What to compute.
    batch_samples : int
        Windows are computed together up to this many samples, padding
        included. A longer window is computed alone.
    n_readers : int
        Recordings that are read at the same time, beside the model; 0: one
        after another, in between.
    progress : callable, optional
        Called with the recording and every window of it that is computed.

    Yields
    ------
    Outcome
        Of each recording; in the order of the items unless several are read
        at a time.
    """
    batch, ends, failed = [], [], set()
    events = _read_ahead(items, n_readers) if n_readers else _read(items)
    for event in events:
        if event.window is not None:
            if batch and not _fits(event, batch, batch_samples):
                yield from _run(batch, engine, tasks, failed, progress)
                yield from _finish(ends, failed)
                batch, ends = [], []
            batch.append(event)
        else:
            ends.append(event)
            if not batch:
                yield from _finish(ends, failed)
                ends = []
    yield from _run(batch, engine, tasks, failed, progress)
    yield from _finish(ends, failed)


def _fits(event, batch, batch_samples):
    """Whether a window can be computed together with others."""
    if event.window[0].is_whole != batch[0].window[0].is_whole:
        return False
    longest = max(len(e.window[1]) for e in [*batch, event])
    return (len(batch) + 1) * longest <= batch_samples


def _run(batch, engine, tasks, failed, progress):
    """Run windows; yield the outcome of recordings that fail on them."""
    batch = [event for event in batch if event.key not in failed]
    if not batch:
        return
    run = engine.run_whole if batch[0].window[0].is_whole else engine.encode
    results = run([event.window[1] for event in batch], tasks)
    for event, result in zip(batch, results, strict=True):
        if event.key in failed:
            continue
        window = event.window[0]
        try:
            event.recording.take(window, result)
        except Exception as error:
            yield _give_up(event, _told(error), failed)
        if progress is not None:
            progress(event.recording, window)


def _finish(ends, failed):
    for event in ends:
        if event.key in failed:
            continue
        if event.error is not None:
            yield _give_up(event, event.error, failed)
            continue
        try:
            yield Outcome(event.key, event.recording.finish(), None)
        except Exception as error:
            yield _give_up(event, _told(error), failed)


def _told(error):
    """Make an error that names its class, if it is not one of ours."""
    if isinstance(error, InputError):
        return error
    told = InputError(f"cannot be analysed: {type(error).__name__}: {error}")
    told.__cause__ = error
    return told


def _give_up(event, error, failed):
    failed.add(event.key)
    if event.recording is not None:
        event.recording.discard()
    return Outcome(event.key, None, error)


def _read(items):
    """Read one recording after another."""
    for key, open_recording in items:
        recording = None
        try:
            recording = open_recording()
            for window in recording.windows():
                yield _Event(key, recording, window)
        except Exception as error:  # one recording must not end the others
            yield _Event(key, recording, error=_told(error))
        else:
            yield _Event(key, recording)


def _read_ahead(items, n_readers):
    """Read some recordings at the same time, a few windows ahead."""
    events = queue.Queue(maxsize=2 * n_readers)
    items, taking = iter(items), threading.Lock()
    stop = threading.Event()

    def put(event):
        while not stop.is_set():
            try:
                events.put(event, timeout=0.1)
                return
            except queue.Full:
                continue

    def take_items():
        while not stop.is_set():
            with taking:
                item = next(items, None)
            if item is None:
                return
            yield item

    def work():
        try:
            for event in _read(take_items()):
                put(event)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed on to the one who waits
            put(error)

    readers = [
        threading.Thread(target=work, name="merit-reader", daemon=True)
        for _ in range(n_readers)
    ]
    for reader in readers:
        reader.start()
    n_working = n_readers
    try:
        while n_working:
            event = events.get()
            if event is None:
                n_working -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield event
    finally:
        stop.set()
        for reader in readers:
            reader.join()
