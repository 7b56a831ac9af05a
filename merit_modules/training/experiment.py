"""From the command line and YAML files to the settings and parts of a run."""

import contextlib
import gc
import io
import logging
import os
import re
import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import get_rank
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions

from merit_modules.data.escaping import escape_logs
from merit_modules.data.state import hold, let_go
from merit_modules.errors import InputError, told
from merit_modules.files import locale_problem, write_atomically
from merit_modules.hparams import (
    explained,
    format_overrides,
    parse_overrides,
    read_text,
    with_absolute_includes,
)
from merit_modules.pretrained.trust import RUN_TAGS, check_text, read_bounded
from merit_modules.training.alarm import Alarm
from merit_modules.training.defaults import with_defaults
from merit_modules.training.keys import KEYS
from merit_modules.training.seal import (
    SEAL,
    check_same_data,
    check_same_run,
    check_unchanged,
    read_seal,
    sealed_values,
    settings_of,
    write_seal,
)
from merit_modules.training.stopping import (
    TERMINATED,
    Terminated,
    listening,
    request,
)

FOLLOWED = 1  # exit code after the error of another process
START_OVER = "--start_over"
COMPOSED = "composed.yaml"  # a run's YAML in one piece
OVERRIDES = "overrides.yaml"  # what its command line changed
_SSL_ENCODER = re.compile(r"^ssl_encoder:.*\n(?:[ \t#].*\n|\n)*", re.M)
logger = get_logger(__name__)


def check_run(folder):
    """Refuse a run whose YAML names what no recipe of this package does.

    Arguments
    ---------
    folder : str or Path
        The run's output folder, perhaps somebody else's.

    Raises
    ------
    InputError
        If so, or if it is no folder of a run.
    """
    for name, text in zip((COMPOSED, OVERRIDES), _texts_of(folder)):
        check_text(text, Path(folder) / name, RUN_TAGS)
    encoder = read_seal(folder).get("ssl_encoder", "{}")
    check_text(encoder, Path(folder) / SEAL, RUN_TAGS)


def _texts_of(folder):
    texts = []
    for name in (COMPOSED, OVERRIDES):
        path = Path(folder) / name
        if not path.is_file():
            raise InputError(f"{folder}: no run: it has no file {name}")
        texts.append(read_bounded(path))
    return texts


def load_run(folder, overrides=None, trust=False):
    """Build again what a run was made of, wherever its folder is now.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    overrides : dict, optional
        Keys to replace, on top of those of its command line.
    trust : bool
        Whether its YAML may build and call whatever it names; see
        :mod:`merit_modules.pretrained.trust`.

    Returns
    -------
    dict
        Key to value or object.

    Raises
    ------
    InputError
        If it is no folder of a run, or names what no recipe does.
    """
    folder = Path(folder)
    if not trust:
        check_run(folder)
    text, stated = stated_by(folder)
    sealed, overrides = read_seal(folder), overrides or {}
    if "ssl_encoder" in sealed and "ssl_encoder" not in overrides:
        stated.pop("ssl_encoder", None)
        text = re.sub(_SSL_ENCODER, lambda _: sealed["ssl_encoder"], text)
    if sealed:
        settings = settings_of(text, {**stated, **overrides})
        stated |= sealed_values(sealed, settings, overrides)
    overrides = {
        **stated,
        **overrides,
        # The manifests are there; what made them may not be.
        "prepare": None,
        "output_folder": str(folder),
    }
    with explained(folder / COMPOSED):
        hparams = load_hyperpyyaml(text, overrides)
    # Runs of version 0.1 and 0.2 knew their manifests by the folder alone.
    manifests = hparams["manifest_folder"]
    older = {
        "train_annotation": f"{manifests}/train.json",
        "valid_annotation": f"{manifests}/valid.json",
        "test_annotation": f"{manifests}/{{test_set}}.json",
        "noise_annotation": f"{manifests}/noise_{{noise_set}}.json",
    }
    return with_defaults({**older, **hparams}, folder / COMPOSED)


def described_run(folder, overrides=None):
    """Read what a run was begun with, without building anything.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    overrides : dict, optional
        Keys to replace, on top of those of its command line.

    Returns
    -------
    dict
        Key to plain value; see ``seal.settings_of``.

    Raises
    ------
    InputError
        If it is no folder of a run.
    """
    text, stated = stated_by(folder)
    return settings_of(text, {**stated, **(overrides or {})})


def stated_by(folder):
    """Read the two files that say what a run is made of.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.

    Returns
    -------
    text : str
        Its YAML file.
    overrides : dict
        What its command line changed.

    Raises
    ------
    InputError
        If it is no folder of a run, or these are not what it was begun with.

    Example
    -------
    >>> stated_by(getfixture("tmp_path"))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: no run: it has no file composed.yaml
    """
    text, overrides = _texts_of(folder)
    overrides = parse_overrides(overrides)
    sealed = read_seal(folder)
    if sealed:
        with explained(Path(folder) / COMPOSED):
            settings = settings_of(text, overrides)
        check_unchanged(folder, sealed, settings)
    return text, overrides


def begin_run(hparams_file, overrides, hparams, prepare=None):
    """Prepare the data of a run and write down what it is made of.

    SpeechBrain's ``hyperparams.yaml`` shows the values; here are the YAML file
    as it is, beside it what the command line changed, and a seal on both and
    on the data. From then on the folder is this process's.

    Arguments
    ---------
    hparams_file : str or Path
        The YAML file.
    overrides : str
        Keys that were replaced, as YAML.
    hparams : dict
        What they make.
    prepare : callable, optional
        Makes the manifests.

    Raises
    ------
    InputError
        If the folder holds checkpoints of other settings, data or labels;
        nothing in it is changed then. Or if another process is at work there.
    """
    hparams_file, folder = Path(hparams_file), Path(hparams["output_folder"])
    hold(folder)
    text = with_absolute_includes(read_text(hparams_file), hparams_file.parent)
    overrides = parse_overrides(overrides)
    settings, sealed = settings_of(text, overrides), {}
    is_begun = any(folder.glob("save/CKPT+*")) and (folder / COMPOSED).is_file()
    if is_begun:
        check_same_run(folder, described_run(folder), settings)
        sealed = read_seal(folder)
    manifests, before = hparams.get("manifest_folder"), {}
    if prepare is not None:
        if sealed and manifests:
            paths = Path(manifests).glob("*.json")
            before = {path: path.read_text("utf-8") for path in paths}
        _begin_log(folder)
        prepare()
    try:
        data = check_same_data(folder, sealed, hparams)
    except InputError:
        for path, content in before.items():
            write_atomically(path, content)
        raise
    if not is_begun:  # else an old seal would meet new files
        (folder / SEAL).unlink(missing_ok=True)
    write_atomically(folder / COMPOSED, text)
    write_atomically(folder / OVERRIDES, format_overrides(overrides))
    write_seal(folder, settings, hparams, data)


def _begin_log(folder):
    """Show what preparation tells, and keep it.

    SpeechBrain's own log takes over when nothing can be refused any more.
    """
    if not logging.root.handlers:
        logging.basicConfig(
            level=logging.INFO,
            format="%(name)s - %(message)s",
            handlers=[
                logging.StreamHandler(sys.stdout),
                logging.FileHandler(folder / "log.txt"),
            ],
        )


def usage(about, argv):
    """Tell how a recipe's command is used.

    Arguments
    ---------
    about : str
        What the recipe is.
    argv : list of str
        The command line; a YAML file in it has its keys listed.

    Returns
    -------
    str
        What it is, the keys of the file with their values and comments, and
        SpeechBrain's options.
    """
    about = about.partition("\nAuthors\n")[0].strip()
    parts = [about, "usage: python train.py HPARAMS.yaml [--key value]"]
    files = [word for word in argv if word.endswith((".yaml", ".yml"))]
    for name in files:
        parts.append(f"keys of {name}, with their values:\n")
        parts[-1] += "\n".join(
            f"  --{key} {value}{_about(key)}"
            for key, value in re.findall(
                # Parts that are built are changed in the file.
                r"^(\w+):[ ]+((?!!new|!name|!apply).*)$",
                read_text(name),
                re.M,
            )
        )
    if not files:
        parts.append("With a YAML file, --help lists its keys, too.")
    # Its own parser, which it keeps to itself, writes to the screen and exits.
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        RunOptions.from_command_line_args(["--help"])
    options = shown.getvalue().partition("\noptions:\n")[2]
    parts.append(
        f"{START_OVER}: begin anew; the run that is there is renamed and kept"
    )
    parts.append("SpeechBrain's options:\n" + options.rstrip())
    return "\n\n".join(parts)


def _about(key):
    if key not in KEYS:
        return ""
    kind, about = KEYS[key]
    return f"\n      {about}: {kind.told}"


def as_command(main, argv=None):
    """Run a recipe's main function as a command.

    Arguments
    ---------
    main : callable
        Takes the command line's arguments.
    argv : list of str, optional
        Those arguments; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0 if all went well; 2 after an error that the user can
        mend, told in one message without a traceback; 130 if interrupted, 143
        if ended by SIGTERM; 1 after another process's error.

    Example
    -------
    >>> def main(argv):
    ...     raise InputError(f"{argv[0]}: no such folder")
    >>> as_command(main, ["there"])
    2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with Alarm() as alarm:
        return _run(main, argv, alarm)


def _run(main, argv, alarm):
    several = "RANK" in os.environ
    escape_logs()
    try:
        if {"-h", "--help"} & set(argv):
            print(usage(sys.modules[main.__module__].__doc__, argv))
            return 0
        for word in argv:
            if problem := locale_problem(word):
                raise InputError(problem)
        if START_OVER in argv:
            argv.remove(START_OVER)
            set_aside(argv)
        with listening():
            main(argv)
    except Terminated:
        if not (several and get_rank()) and not alarm.is_raised():
            print("ended by SIGTERM; the same command goes on", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the run", file=sys.stderr)
        return 130
    except Exception as error:
        message = told(error)
        ended = several and message is None and request.is_made
        if ended and not alarm.is_raised():
            return TERMINATED  # as the others, which this one waited for
        if not alarm.is_first():
            return FOLLOWED
        if message is None:
            raise
        logger.error(f"error: {message}", main_process_only=False)
        return 2
    finally:
        let_go()
        # A process that leaves its group's threads to the interpreter's exit
        # is now and then aborted there. What holds on to the group goes first.
        if torch.distributed.is_initialized():
            gc.collect()
            torch.distributed.destroy_process_group()
    return 0


def set_aside(argv):
    """Rename the folder of a command's run, so that it begins anew.

    Arguments
    ---------
    argv : list of str
        A recipe's command line.

    Raises
    ------
    InputError
        If another process is at work there.
    """
    if "RANK" in os.environ:
        raise InputError(
            f"{START_OVER}: with several processes, rename the output folder "
            "yourself"
        )
    path, _, overrides = sb.parse_arguments(argv)
    path = Path(path)
    text = with_absolute_includes(read_text(path), path.parent)
    with explained(path):
        settings = settings_of(text, parse_overrides(overrides))
    folder = Path(settings["output_folder"])
    if not folder.is_dir():
        return
    hold(folder)
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    os.rename(folder, aside)
    let_go()
    logger.warning(f"{folder}: the run there is now {aside}")
