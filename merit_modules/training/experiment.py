"""From the command line and YAML files to the settings and parts of a run."""

import contextlib
import errno
import gc
import io
import re
import sys
from pathlib import Path

import torch
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions

from merit_modules.errors import InputError
from merit_modules.files import write_atomically
from merit_modules.hparams import (
    format_overrides,
    load_hparams,
    parse_overrides,
    read_text,
    with_absolute_includes,
)
from merit_modules.pretrained.trust import RUN_TAGS, check_text, read_bounded
from merit_modules.training.defaults import with_defaults
from merit_modules.training.keys import KEYS
from merit_modules.training.seal import check_same_run, settings_of

COMPOSED = "composed.yaml"  # a run's YAML in one piece
OVERRIDES = "overrides.yaml"  # what its command line changed
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
    _, stated = stated_by(folder)
    overrides = {
        **stated,
        **(overrides or {}),
        # The manifests are there; what made them may not be.
        "prepare": None,
        "output_folder": str(folder),
    }
    hparams = load_hparams(folder / COMPOSED, overrides)
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
        If it is no folder of a run.

    Example
    -------
    >>> stated_by(getfixture("tmp_path"))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: no run: it has no file composed.yaml
    """
    text, overrides = _texts_of(folder)
    return text, parse_overrides(overrides)


def save_settings(hparams_file, overrides, folder):
    """Write down what a run is made of, if that is what it was begun with.

    SpeechBrain's ``hyperparams.yaml`` shows the values; here are the YAML file
    as it is and, beside it, what the command line changed.

    Arguments
    ---------
    hparams_file : str or Path
        The YAML file.
    overrides : str
        Keys that were replaced, as YAML.
    folder : str or Path
        The run's output folder.

    Raises
    ------
    InputError
        If there are checkpoints of other settings; nothing is changed then.
    """
    hparams_file = Path(hparams_file)
    text = with_absolute_includes(read_text(hparams_file), hparams_file.parent)
    stated = parse_overrides(overrides)
    begun = list(Path(folder).glob("save/CKPT+*"))
    if begun and (Path(folder) / COMPOSED).is_file():
        check_same_run(folder, described_run(folder), settings_of(text, stated))
    options = format_overrides(stated)
    for name, content in ((COMPOSED, text), (OVERRIDES, options)):
        run_on_main(write_atomically, args=(Path(folder) / name, content))


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
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        RunOptions.from_command_line_args(["--help"])
    options = told.getvalue().partition("\noptions:\n")[2]
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
        mend, told in one message without a traceback; 130 if interrupted.

    Example
    -------
    >>> def main(argv):
    ...     raise InputError(f"{argv[0]}: no such folder")
    >>> as_command(main, ["there"])
    2
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if {"-h", "--help"} & set(argv):
            print(usage(sys.modules[main.__module__].__doc__, argv))
            return 0
        main(argv)
    except InputError as error:
        # One that comes from a loader's worker brings its traceback along.
        message = str(error).rsplit("InputError: ", 1)[-1].strip()
        logger.error(f"error: {message}")
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        logger.error(f"error: the disk is full: {error}; nothing saved is lost")
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the run", file=sys.stderr)
        return 130
    finally:
        # A process that leaves its group's threads to the interpreter's exit
        # is now and then aborted there. What holds on to the group goes first.
        if torch.distributed.is_initialized():
            gc.collect()
            torch.distributed.destroy_process_group()
    return 0
