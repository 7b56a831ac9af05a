"""One run of ``merit analyze|enhance|classify``, from inputs to exit code."""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from merit_modules.commands.about import about_model
from merit_modules.commands.analyze.inputs import (
    STANDARD_INPUT,
    collect_jobs,
    printable,
)
from merit_modules.commands.analyze.job_log import (
    JobLog,
    check_source,
    fingerprint_model,
)
from merit_modules.commands.analyze.result_files import as_line
from merit_modules.commands.analyze.streams import (
    DataOutput,
    quiet_libraries,
    spool_input,
)
from merit_modules.data.escaping import terminal
from merit_modules.data.state import hold
from merit_modules.errors import InputError
from merit_modules.files import locale_problem
from merit_modules.inference import SparseMERIT
from merit_modules.inference.audio import FileSource
from merit_modules.inference.interface import SEGMENT_S
from merit_modules.inference.windows import RECORDED, Sizes

ROUTING = "routing"


def run_command(args):
    """Run a command.

    Arguments
    ---------
    args : argparse.Namespace
        Options, as :mod:`~merit_modules.commands.analyze.options` reads them.

    Returns
    -------
    int
        0, or 1 if a recording failed.

    Raises
    ------
    InputError
        If the command cannot start.
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(DataOutput())
        stack.enter_context(quiet_libraries())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        return _Run(args, output, Path(folder)).run()


class _Run:
    """A run's options and state."""

    def __init__(self, args, output, scratch):
        self.args = args
        self.output = output
        self.scratch = scratch
        # Before its state is read; a new folder is made when all is checked.
        if args.out and os.path.isdir(args.out):
            hold(args.out)
        self.log = JobLog(args.out) if args.out else None
        self.model = self.tasks = None
        self.chunking = _chunking(args)
        # Enhancing takes no notice of it.
        self.segment_s = getattr(args, "segment_seconds", SEGMENT_S)
        self.n_done, self.failed = 0, []

    def run(self):
        check_source(self.args.model)
        jobs = collect_jobs(self.args.inputs, self._is_output, self._tell)
        self._check_outputs(jobs)
        todo = jobs
        if self.log is not None:
            self.log.check(self._settings(), self.args.overwrite)
            todo = [job for job in jobs if not self.log.is_done(job)]
        if todo:
            self._load_model()
        if self.log is not None:
            hold(self.args.out)
            self.log.begin(todo)
        try:
            if todo:
                self._run_all(todo)
        except KeyboardInterrupt:
            self._summarize(len(jobs) - len(todo), "interrupted: ")
            raise
        self._summarize(len(jobs) - len(todo))
        return 1 if self.failed else 0

    # ---- before anything is computed ----------------------------------

    def _tell(self, message):
        if not self.args.quiet:
            print(terminal(message), file=sys.stderr)

    def _is_output(self, folder, path):
        """Tell whether a file that was found was written by this command."""
        if self.log is None:
            return False
        out, path = Path(self.log.out).resolve(), Path(path).resolve()
        if not path.is_relative_to(out):
            return False
        is_below = out != Path(folder).resolve() and out.is_relative_to(
            Path(folder).resolve()
        )
        return is_below or path.relative_to(out).as_posix() in self.log.owners

    def _outputs(self, job):
        """Name the files of a recording below the output folder."""
        names = []
        if self.args.command != "classify":
            names.append(f"{job.stem}.{self.args.extension}")
        if self.args.routing:
            names.append(f"{ROUTING}/{job.stem}.npz")
        return names

    def _check_outputs(self, jobs):
        if self.log is None:
            return
        owners, inputs = {}, {}
        for job in jobs:
            if (file := _identity(job.path)) is not None:
                inputs[file] = job.file
        for job in jobs:
            for name in self._outputs(job):
                path = self.log.out / name
                other = owners.setdefault(name, job)
                if other is not job:
                    raise InputError(
                        f"{other.file} and {job.file} would both be written to "
                        f"{path}"
                    )
                if (file := _identity(path)) in inputs and file is not None:
                    raise InputError(
                        f"{path}: would be written over the input "
                        f"{inputs[file]}; choose another --out"
                    )

    def _settings(self):
        args, (encoder, se_head, fade_s) = self.args, self.chunking
        settings = {
            "format": args.format,
            "routing": args.routing,
            "int8": args.int8,
            "chunking_seconds": [*encoder, *se_head, fade_s],
        }
        if args.command != "enhance":
            settings["segment_seconds"] = self.segment_s
        if args.command != "classify":
            settings["encoding"] = args.encoding
            settings["extension"] = args.extension
        return {
            "command": args.command,
            "model": args.model,
            "model_fingerprint": fingerprint_model(args.model),
            "settings": settings,
        }

    def _load_model(self):
        args = self.args
        options = {"int8": args.int8, "trust": args.trust}
        if args.device:
            options["run_opts"] = {"device": args.device}
        self.model = SparseMERIT.from_hparams(source=args.model, **options)
        about = about_model(self.model, args.model)
        if about.trained_on:
            self._tell(f"model {about.name}: {about.trained_on[0]}")
        self.model.chunking = self.chunking
        able = self.model.engine.tasks
        self.tasks = {"enhance": ["se"], "classify": ["ser"]}.get(
            args.command, able if self.log else ["ser"]
        )
        # Options that the model has to agree with, before the first file.
        silence = torch.zeros(self.model.sample_rate_hz)
        self.model.opener(silence, self.tasks, segment_s=self.segment_s)()
        if args.routing and not self.model.analyze_batch(silence[None]).routing:
            raise InputError("--routing: this model has no router")

    # ---- recordings ---------------------------------------------------

    def _run_all(self, todo):
        paths = [self._readable(job) for job in todo]
        items = (
            (i, self._opener(todo[i], path)) for i, path in enumerate(paths)
        )
        shown = sys.stderr.isatty() and not self.args.quiet
        rate_hz = self.model.sample_rate_hz
        with Progress(paths, rate_hz, shown) as progress:
            outcomes = self.model.run(
                items,
                self.tasks,
                self.args.batch_seconds,
                self.args.jobs,
                progress,
            )
            with contextlib.closing(outcomes):
                for key, analysis, error in outcomes:
                    job, path = todo[key], paths[key]
                    if error is None:
                        self._take(job, analysis)
                    else:
                        message = printable(str(error).replace(path, job.file))
                        self._fail(job, message, progress)
                    progress.finish(path)

    def _readable(self, job):
        """Return the path to open a recording by."""
        if job.path == STANDARD_INPUT:
            return str(spool_input(self.scratch))
        return job.path

    def _opener(self, job, path):
        outputs = self._outputs(job)
        options = {"segment_s": self.segment_s}
        if self.args.command != "classify":
            folder = self.log.out if self.log else self.scratch / "enhanced"
            name = f"{job.stem}.{self.args.extension}"
            options["output_filename"] = folder / name
            options["encoding"] = self.args.encoding
        opener = self.model.opener(path, self.tasks, **options)

        def open_recording():
            if printable(path) != path:  # libsndfile takes no other
                raise InputError(
                    locale_problem(path)
                    or f"{job.file}: expected a name in UTF-8; rename the file"
                )
            if self.log is not None:
                self.log.claim(job, outputs)
            return opener()

        return open_recording

    def _take(self, job, analysis):
        """Keep the results of a recording."""
        told = analysis._replace(name=job.file).as_dict()
        if self.args.routing:
            path = self.log.out / ROUTING / f"{job.stem}.npz"
            _write_routing(path, analysis)
        if self.log is not None:
            self.log.add(job, told)
        if self.log is None or job.path == STANDARD_INPUT:
            if self.args.command == "enhance":
                self.output.write_file(analysis.enhanced_path)
            elif self.args.command == "classify" and self.output.is_terminal:
                self.output.write_line(as_line(told))
            else:
                line = terminal(json.dumps(told, ensure_ascii=False))
                self.output.write_line(line)
        self.n_done += 1

    def _fail(self, job, message, progress):
        if not message.startswith(job.file):
            message = f"{job.file}: {message}"
        progress.say(terminal(f"error: {message}"))
        if self.log is not None:
            self.log.fail(job, message)
        self.failed.append(job.file)

    def _summarize(self, n_skipped, before=""):
        if self.failed or not self.args.quiet:
            print(
                f"{before}{self.n_done} done, {n_skipped} skipped (done "
                f"before), {len(self.failed)} failed",
                file=sys.stderr,
            )
        for name in self.failed:
            print(terminal(f"failed: {name}"), file=sys.stderr)


def _chunking(args):
    sides = args.context_seconds
    return RECORDED._replace(encoder=Sizes(args.chunk_seconds, sides, sides))


def _identity(path):
    """Return what tells a file from any other by any name, if it is there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write_routing(path, analysis):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    experts = {
        f"expert_{task}": index.numpy()
        for task, index in analysis.routing.items()
    }
    with open(partial, "wb") as stream:
        np.savez_compressed(stream, frame_s=analysis.frame_s, **experts)
    os.replace(partial, path)


class Progress:
    """A bar on standard error.

    Arguments
    ---------
    paths : list of str
        Recordings to come.
    sample_rate_hz : int
        The model's sample rate, in which windows are counted.
    shown : bool
        Whether there is a bar at all.

    Example
    -------
    >>> with Progress([], 16000, shown=False) as progress:
    ...     progress.finish("a.wav")
    """

    def __init__(self, paths, sample_rate_hz, shown):
        self.sample_rate_hz = sample_rate_hz
        # Headers are read only if somebody looks on.
        self._left = {path: _seconds(path) for path in paths} if shown else {}
        self._bar = tqdm(
            total=round(sum(self._left.values()), 1),
            disable=not shown,
            file=sys.stderr,
            unit="s",
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio "
            "[{elapsed}<{remaining}]",
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()

    def __call__(self, recording, window):
        """Count a window of a recording; see ``SparseMERIT.run``."""
        path = recording.source.name
        seconds = (window.own_stop - window.own_start) / self.sample_rate_hz
        self._advance(path, seconds)

    def finish(self, path):
        """Count all that is left of a recording."""
        self._advance(path, float("inf"))

    def _advance(self, path, seconds):
        left = self._left.get(path, 0.0)
        self._bar.update(min(left, seconds))
        self._left[path] = max(0.0, left - seconds)

    def say(self, message):
        """Write a line on standard error, above the bar."""
        tqdm.write(message, file=sys.stderr)


def _seconds(path):
    try:
        source = FileSource(path)
    except (InputError, UnicodeEncodeError):
        return 0.0  # its turn to be reported comes
    return source.n_samples / source.sample_rate_hz
