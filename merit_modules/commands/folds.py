"""``merit folds``: run a recipe for several folds and seeds, and summarise.

Each run is the recipe's own command in a process of its own, with a folder of
its own below ``--out``. The same command goes on where it was stopped:
finished runs are skipped, others resume. ``summary.json`` and ``summary.md``
hold means and standard deviations.
"""

import hashlib
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from merit_modules.commands.processes import Task, run_tasks, threads_each
from merit_modules.data.escaping import terminal
from merit_modules.data.state import (
    DamagedError,
    file_digest,
    hold,
    read_state,
    write_state,
)
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import RESULTS, read_run
from merit_modules.files import write_atomically
from merit_modules.hparams import parse_overrides, read_text
from merit_modules.training.keys import KEYS, check_command

RECORD = "run.json"  # what a run's folder was made with, and whether whole
LOG = "run.log"
THREADS = "OMP_NUM_THREADS"
#: Options that change nothing but where and how fast a run goes.
HARMLESS = {"device", "num_workers", "num_metric_workers", "noprogressbar"}


class Job(NamedTuple):
    """One run.

    Arguments
    ---------
    fold : int or None
        Its fold; None: the recipe's own, or it has none.
    seed : int
        Its seed.
    folder : Path
        Its output folder.
    settings : dict
        All that its results depend on.
    """

    fold: int | None
    seed: int
    folder: Path
    settings: dict

    @property
    def name(self):
        """What to call it in messages."""
        fold = "" if self.fold is None else f"fold {self.fold}, "
        return f"{fold}seed {self.seed}"


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "folds",
        help="run a recipe for several folds and seeds, and summarise",
        description="Run a recipe for several folds and seeds, each in a "
        "folder of its own, and summarise them. The same command goes on "
        "where it was stopped. Such as: merit folds "
        "recipes/EMODB/joint_se_ser/train.py hparams/sparse_merit.yaml "
        "--folds 0-4 --seeds 1,2 --gpus 0,1 -- --data_folder /corpora/EMO-DB",
        epilog="What stands after -- is handed on to every run. Exit code: 0 "
        "if all runs finished, 1 if some failed (the others are run all the "
        "same).",
    )
    parser.add_argument("train", metavar="TRAIN.PY", help="a recipe's train.py")
    parser.add_argument(
        "hparams",
        metavar="HPARAMS.YAML",
        help="its YAML file, as train.py takes it",
    )
    parser.add_argument("--folds", help="such as 1-5 or 1,3")
    parser.add_argument("--seeds", help="such as 1-3 or 1,2")
    several = parser.add_mutually_exclusive_group()
    several.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, which share the cores (default: 1)",
    )
    several.add_argument("--gpus", help="such as 0,1: a run at a time on each")
    several.add_argument(
        "--print",
        action="store_true",
        dest="only_print",
        help="print the command of each run that is not finished, one a line, "
        "for job arrays or GNU parallel, and run none; afterwards the same "
        "without --print summarises them",
    )
    parser.add_argument("--out", help="folder for all runs and the summary")
    parser.set_defaults(run=_run)


def _run(args):
    train = Path(args.train).resolve()
    if not train.is_file():
        raise InputError(f"{args.train}: there is no such script")
    hparams = find_hparams(train, args.hparams)
    jobs, out = _make_jobs(args, hparams, args.rest)
    command = [sys.executable, str(train), str(hparams), *args.rest]
    if args.only_print:
        for job in jobs:
            if not _is_finished(job):
                _write_record(job)
                print(shlex.join(_command_of(job, command)))
        return 0
    slots = slots_of(args)
    hold(out)
    failed = _run_unfinished(jobs, slots, command)
    if failed is None:
        raise KeyboardInterrupt
    _write_summary(out, jobs, failed)
    for name, reason in failed.items():
        print(terminal(f"failed: {name}: {reason}"), file=sys.stderr)
    return 1 if failed else 0


def numbers(text, option):
    """Read a list of numbers and ranges.

    Example
    -------
    >>> numbers("1-3,7", "--folds")
    [1, 2, 3, 7]
    """
    found = {}
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        both = [int(end or ends[1]) for end in ends.groups()] if ends else []
        if not both or both[1] < both[0]:
            raise InputError(
                f"{option}: expected numbers and ranges such as 1-3,7, "
                f"got {part!r}"
            )
        found |= dict.fromkeys(range(both[0], both[1] + 1))
    return list(found)


def find_hparams(train, name):
    """Look for a YAML file beside train.py, then from where we are."""
    for path in (train.parent / name, Path(name)):
        if path.is_file():
            return path.resolve()
    raise InputError(
        f"{name}: there is no such file, neither in {train.parent} nor here"
    )


def options_of(rest):
    """Read the recipe's options.

    Example
    -------
    >>> options_of(["--lr", "0.1", "--debug", "--top_k=2"])
    {'lr': ['0.1'], 'debug': [], 'top_k': ['2']}
    """
    options, key = {}, None
    for word in rest:
        if word.startswith("--"):
            key, has_value, value = word[2:].partition("=")
            options[key] = [value] if has_value else []
        elif key is None:
            raise InputError(f"after --: expected --key value, got {word!r}")
        else:
            options[key].append(word)
    own = {"fold": "--folds", "seed": "--seeds", "output_folder": "--out"}
    for key, instead in own.items():
        if key in options:
            raise InputError(f"after --: {key} differs by run; use {instead}")
    return options


def _make_jobs(args, hparams, rest):
    """List the runs, those of one seed together, and their common folder."""
    options, text = options_of(rest), read_text(hparams)
    tree = parse_overrides(text)
    _check_values(hparams, tree, options)
    for key, wanted in (("fold", args.folds), ("seed", args.seeds)):
        if wanted is not None and key not in tree:
            raise InputError(f"--{key}s: {hparams} has no key {key!r}")
    folds = [None] if args.folds is None else numbers(args.folds, "--folds")
    given = tree.get("seed") if args.seeds is None else args.seeds
    seeds = numbers(str(given), "--seeds")
    corpus = (options.get("corpus_name") or [tree.get("corpus_name")])[0]
    out = Path(args.out or f"results/{corpus}/folds/{hparams.stem}").absolute()
    common = {
        "hparams": hashlib.sha256(_code(text).encode()).hexdigest(),
        "options": {k: v for k, v in options.items() if k not in HARMLESS},
    }
    jobs = []
    for seed in seeds:
        for fold in folds:
            folder = out if fold is None else out / f"fold_{fold}"
            settings = {**common, "fold": fold, "seed": seed}
            jobs.append(Job(fold, seed, folder / f"seed_{seed}", settings))
    for job in jobs:
        _check_settings(job)
    return jobs, out


def _check_values(hparams, tree, options):
    """Check what each run would, but for the device: it may be elsewhere."""
    given = {
        key: parse_overrides(f"value: {' '.join(words)}")["value"]
        for key, words in options.items()
        if words and key in KEYS
    }
    own = {key: value for key, value in given.items() if key in tree}
    check_command(
        hparams, {k: given[k] for k in given.keys() - own - {"device"}}, own
    )


def _code(text):
    """Take comments and blank lines out of YAML text."""
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _read_record(job):
    """Return the record in a run's folder; empty without one."""
    try:
        return read_state(job.folder / RECORD)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        print(f"{error}; this run is done again", file=sys.stderr)
        return {}


def _check_settings(job):
    """Refuse to go on with a run that was begun with other settings."""
    old, new = _read_record(job).get("settings"), job.settings
    if old in (None, new):
        return
    options = old.get("options", {})
    changed = [
        f"--{k}"
        for k in {**options, **new["options"]}
        if options.get(k) != new["options"].get(k)
    ]
    if old.get("hparams") != new["hparams"]:
        changed.append("the YAML file")
    raise InputError(
        f"{job.folder} holds a run with other settings (changed: "
        f"{', '.join(changed)}); give another --out or delete it"
    )


def _results_digest(job):
    """Return a digest of a run's results, None without any."""
    try:
        return file_digest(job.folder / RESULTS)
    except FileNotFoundError:
        return None


def _is_finished(job):
    """Say whether a run ended well and its results are what it wrote."""
    # results.json alone does not tell: it grows with each test condition.
    digest = _read_record(job).get("results")
    return digest is not None and digest == _results_digest(job)


def _write_record(job, results=None):
    """Note what a run's folder is made with and, at its end, its results."""
    record = {"settings": job.settings, "results": results}
    write_state(job.folder / RECORD, record)


def slots_of(args):
    """List the environment of each of the runs at a time.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> slots_of(SimpleNamespace(gpus="0,1", parallel=1))
    [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]
    """
    if args.gpus is not None:
        gpus = [gpu.strip() for gpu in args.gpus.split(",")]
        if not all(gpus):
            raise InputError(f"--gpus: expected 0,1 or so, got {args.gpus!r}")
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    if args.parallel < 1:
        raise InputError(f"--parallel: expected 1 or more, got {args.parallel}")
    share = {}
    if args.parallel > 1 and THREADS not in os.environ:
        # Each would take all cores, and wait for the others.
        share = {THREADS: str(threads_each(args.parallel))}
    return [dict(share) for _ in range(args.parallel)]


def _command_of(job, command):
    """Complete the recipe's command for one run."""
    full = [*command, "--output_folder", str(job.folder)]
    full += ["--seed", str(job.seed)]
    return full + ([] if job.fold is None else ["--fold", str(job.fold)])


def _run_unfinished(jobs, slots, command):
    """Run what is not finished; return as ``run_tasks`` does."""
    tasks, job_of = [], {}
    for job in jobs:
        if _is_finished(job):
            print(f"{job.name}: finished before", flush=True)
            continue
        _write_record(job)
        job_of[job.name] = job
        full = _command_of(job, command)
        tasks.append(Task(job.name, full, job.folder / LOG))

    def check(task):
        job = job_of[task.name]
        digest = _results_digest(job)
        if digest is None:
            return f"it ended without {RESULTS}"
        _write_record(job, digest)
        return None

    return run_tasks(tasks, slots, check)


def _write_summary(out, jobs, failed):
    """Write and print the summary of the runs that finished."""
    from merit_modules.report.summary import summarise_runs, summary_table

    done = [job for job in jobs if job.name not in failed]
    if not done:
        return
    missing = [f"{name}: {reason}" for name, reason in failed.items()]
    runs = [
        read_run(job.folder)._replace(fold=job.fold, seed=job.seed)
        for job in done
    ]
    summary = summarise_runs(runs, missing)
    text = json.dumps(summary, indent=2, allow_nan=False)
    write_atomically(out / "summary.json", text + "\n")
    write_atomically(out / "summary.md", summary_table(summary) + "\n")
    table = terminal(summary_table(summary), keep="\n")
    print(f"\n{table}\n\nSummary: {out}/summary.json")
