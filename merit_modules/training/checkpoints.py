"""SpeechBrain's checkpointer, made safe against kills, full disks, damage."""

import logging
import os
import re
import shutil
from pickle import UnpicklingError

import yaml
from speechbrain.utils.checkpoints import (
    Checkpoint,
    Checkpointer,
    ckpt_recency,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_barrier, if_main_process
from speechbrain.utils.epoch_loop import EpochCounterWithStopper
from speechbrain.utils.logger import get_logger

from merit_modules.data.state import (
    DamagedError,
    file_digest,
    read_state,
    write_state,
)
from merit_modules.errors import InputError
from merit_modules.files import sync

#: What can pick the epoch to test: scores of the validation set, or the last.
SCORES = {
    "epoch": "max",
    "loss": "min",
    "ser_ce": "min",
    "ser_ccc": "min",
    "ccc_mean": "max",
    "se_l1": "min",
    "f1_macro": "max",
    "f1_micro": "max",
    "uar": "max",
    "si_sdr_gain_db": "max",
}

#: What a checkpoint says of itself.
KEPT = (*SCORES, "temperature")

logger = get_logger(__name__)
# SpeechBrain 1.1 marks its hooks but does not register them: in a resumed run
# the patience would begin again.
register_checkpoint_hooks(EpochCounterWithStopper)

PARTIAL_PREFIX = "PARTIAL+"
DAMAGED_PREFIX = "DAMAGED+"
DIGESTS = "digests.json"  # of the files of a checkpoint
META = "CKPT.yaml"


def check_selection(score, n_kept):
    """Make sure that checkpoints can be picked as asked for.

    Arguments
    ---------
    score : str
        What picks the epoch to test.
    n_kept : int
        How many of the best are kept.

    Raises
    ------
    InputError
        If one of the two is nothing that can be done.

    Example
    -------
    >>> check_selection("f1", 1)
    Traceback (most recent call last):
    merit_modules.errors.InputError: checkpoint_score: expected one of epoch,
    loss, ..., got 'f1'
    """
    if score not in SCORES:
        raise InputError(
            f"checkpoint_score: expected one of {', '.join(SCORES)}, "
            f"got {score!r}"
        )
    if not (isinstance(n_kept, int) and n_kept >= 1):
        raise InputError(
            f"keep_checkpoints: expected 1 or more, got {n_kept!r}"
        )


class AtomicCheckpointer(Checkpointer):
    """A checkpointer whose checkpoints are there whole or not at all.

    SpeechBrain writes a checkpoint's meta file first, so a run that is killed
    while saving leaves a folder that looks like a checkpoint and cannot be
    loaded. Here a checkpoint is written under another name, synced to the disk
    and then renamed. It holds digests of its files: one that is damaged is
    told from one of another model, and the one before it takes its place.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Folder of the checkpoints.
    recoverables : dict, optional
        Name to object.
    **kwargs : dict
        Further arguments of ``speechbrain.utils.checkpoints.Checkpointer``.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> layer = torch.nn.Linear(2, 2)
    >>> checkpointer = AtomicCheckpointer(folder, {"layer": layer})
    >>> checkpoint = checkpointer.save_checkpoint(meta={"loss": 1.0})
    >>> checkpointer.find_checkpoint(min_key="loss").path == checkpoint.path
    True
    """

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """Save a checkpoint; see SpeechBrain's ``Checkpointer``.

        Arguments
        ---------
        meta : dict, optional
            What to remember of it, such as validation scores.
        end_of_epoch : bool
            Whether the epoch is complete.
        name : str, optional
            Name to use in place of the time.
        verbosity : int
            Logging level of the message that tells of it.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint or None
            The checkpoint; None on processes but the first.

        Raises
        ------
        InputError
            If it cannot be written (a full disk, say). The checkpoints that
            were there stay as they were.
        """
        try:
            checkpoint = super().save_checkpoint(
                meta or {}, end_of_epoch, name, verbosity=logging.DEBUG
            )
            if checkpoint is not None:
                checkpoint = self._publish(checkpoint)
                logger.log(verbosity, f"Saved checkpoint {checkpoint.path}")
        # torch reports a failed write as a RuntimeError of its zip writer.
        except (OSError, RuntimeError) as error:
            self._remove_partial()
            raise InputError(self._explain_save(error)) from error
        ddp_barrier()
        return checkpoint

    def _new_checkpoint_dirpath(self):
        return self._partial(super()._new_checkpoint_dirpath())

    def _custom_checkpoint_dirpath(self, name):
        return self._partial(super()._custom_checkpoint_dirpath(name))

    def _partial(self, path):
        self._remove_partial()
        return path.with_name(PARTIAL_PREFIX + path.name)

    def _publish(self, checkpoint):
        partial = checkpoint.path
        written = sorted(partial.iterdir())
        digests = {path.name: file_digest(path) for path in written}
        for path in written:
            sync(path)
        write_state(partial / DIGESTS, digests)
        final = partial.with_name(partial.name.removeprefix(PARTIAL_PREFIX))
        if final.exists():  # a custom name that is saved again
            shutil.rmtree(final)
        os.rename(partial, final)
        sync(final.parent)
        files = {
            name: final / path.name
            for name, path in checkpoint.paramfiles.items()
        }
        return Checkpoint(final, checkpoint.meta, files)

    def _remove_partial(self):
        if if_main_process():
            for folder in self.checkpoints_dir.glob(PARTIAL_PREFIX + "*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _explain_save(self, error):
        last = self.find_checkpoint()
        kept = f"the last one is {last.path}" if last else "there is none yet"
        return (
            f"a checkpoint could not be saved in {self.checkpoints_dir}: "
            f"{error} (is the disk full?); {kept}"
        )

    def list_checkpoints(self):
        """List the checkpoints that say what they are.

        Returns
        -------
        list of speechbrain.utils.checkpoints.Checkpoint
            Without those whose list of scores is damaged, which are told.
        """
        found = []
        for folder in sorted(self.checkpoints_dir.glob("CKPT+*")):
            try:
                _check_files(folder, [META])
                found += self._construct_checkpoint_objects([folder])
            except (DamagedError, OSError, ValueError, yaml.YAMLError) as error:
                reason = str(error).partition("\n")[0]
                logger.warning(f"checkpoint {folder} is passed over: {reason}")
        return found

    def load_checkpoint(self, checkpoint):
        """Load a checkpoint; see SpeechBrain's ``Checkpointer``.

        Raises
        ------
        DamagedError
            If it cannot be read; what has digests is checked before, see
            :func:`first_whole`.
        InputError
            If it does not fit: each parameter is named with both shapes.
        """
        try:
            return super().load_checkpoint(checkpoint)
        except (*_UNREADABLE, ValueError) as error:  # ValueError: optimisers
            if "state" in str(error) or "missing a load path" in str(error):
                told = _explain_load(checkpoint.path, error)
                raise InputError(told) from error
            raise DamagedError(
                f"checkpoint {checkpoint.path}: damaged: {error}"
            ) from error

    def recover_if_possible(self, *args, **kwargs):
        """Load the latest whole checkpoint; set damaged ones aside.

        Arguments
        ---------
        *args : tuple
            As SpeechBrain's ``find_checkpoints`` takes them.
        **kwargs : dict
            As SpeechBrain's ``find_checkpoints`` takes them.

        Returns
        -------
        speechbrain.utils.checkpoints.Checkpoint or None
            What was loaded, if there is one.

        Raises
        ------
        InputError
            If there are some, but all of them are damaged.
        """
        found = self.find_checkpoints(*args, **kwargs)
        whole, damaged = first_whole(found)
        for checkpoint in whole:
            self.load_checkpoint(checkpoint)
        ddp_barrier()  # another process may be reading them
        if if_main_process():
            for path in damaged:
                os.rename(path, path.with_name(DAMAGED_PREFIX + path.name))
        return whole[0] if whole else None


#: What reading a damaged file raises, if there are no digests to tell.
_UNREADABLE = (
    *(RuntimeError, EOFError, UnpicklingError, KeyError, TypeError),
    *(AttributeError, yaml.YAMLError, OSError),
)


def first_whole(checkpoints, number=1):
    """Pick the first checkpoints that are not damaged.

    Arguments
    ---------
    checkpoints : list of speechbrain.utils.checkpoints.Checkpoint
        The best one first.
    number : int
        How many to pick at most.

    Returns
    -------
    whole : list of speechbrain.utils.checkpoints.Checkpoint
        Those; empty without checkpoints.
    damaged : list of Path
        The ones that they take the place of, which are told.

    Raises
    ------
    InputError
        If there are some, but all of them are damaged.
    """
    whole, damaged = [], []
    for checkpoint in checkpoints:
        try:
            _check_files(checkpoint.path)
        except DamagedError as error:
            logger.warning(f"{error}; it is passed over")
            damaged.append(checkpoint.path)
            continue
        whole.append(checkpoint)
        if len(whole) == number:
            break
    if damaged and not whole:
        raise InputError(
            f"{damaged[0].parent}: no checkpoint is whole; damaged are "
            f"{', '.join(path.name for path in damaged)}. Restore them from a "
            "copy, or begin anew with --start_over"
        )
    if damaged:
        names = ", ".join(checkpoint.path.name for checkpoint in whole)
        logger.warning(f"taken in place of what is damaged: {names}")
    return whole, damaged


def _check_files(folder, names=None):
    """Compare files with their digests, where there are any."""
    try:
        digests = read_state(folder / DIGESTS)
    except FileNotFoundError:
        return
    for name in digests if names is None else names:
        try:
            same = file_digest(folder / name) == digests[name]
        except (OSError, KeyError) as error:
            raise DamagedError(f"{folder / name}: damaged: {error}") from None
        if not same:
            raise DamagedError(
                f"{folder / name}: damaged: it is not what was written"
            )


def _explain_load(path, error):
    lines = [line.strip() for line in str(error).splitlines()]
    wrong = [
        re.sub(
            r"size mismatch for (\S+): copying a param with shape "
            r"(.+) from checkpoint, the shape in current model is (.+)\.",
            r"\1: expected \3, got \2",
            line,
        )
        for line in lines[1:]
    ]
    shown = "\n  ".join(wrong[:8] or lines)
    more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
    return (
        f"checkpoint {path} is not of this model:\n  {shown}{more}\n"
        "Use the hyperparameters that it was trained with, or another "
        "output_folder."
    )


def scores_of(checkpoint):
    """List the validation scores of a checkpoint, and its epoch.

    Arguments
    ---------
    checkpoint : speechbrain.utils.checkpoints.Checkpoint
        The checkpoint.

    Returns
    -------
    dict
        Name to number; names as in :data:`KEPT`.

    Example
    -------
    >>> from speechbrain.utils.checkpoints import Checkpoint
    >>> meta = {"epoch": 3, "unixtime": 1.0, "uar": 0.5}
    >>> scores_of(Checkpoint("CKPT+3", meta, {}))
    {'epoch': 3, 'uar': 0.5}
    """
    return {k: v for k, v in checkpoint.meta.items() if k in KEPT}


def find_best(checkpointer, score, direction, number=None):
    """Find the best checkpoints by a score of the validation.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Where they are.
    score : str
        Its name. Checkpoints without it (of the middle of an epoch) do not
        count.
    direction : str
        ``min`` or ``max``: which values are good.
    number : int, optional
        How many at most; all by default.

    Returns
    -------
    list of speechbrain.utils.checkpoints.Checkpoint
        The best one first; of equal ones the latest.
    """
    return checkpointer.find_checkpoints(
        **{f"{direction}_key": score}, max_num_checkpoints=number
    )


def last_checkpoint(checkpointer):
    """Say where the newest checkpoint is.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer, optional
        Of the run.

    Returns
    -------
    Path or str
        Its folder, or that there is none.

    Example
    -------
    >>> last_checkpoint(None)
    'not there yet'
    """
    last = checkpointer and checkpointer.find_checkpoint()
    return last.path if last else "not there yet"


def save_best(checkpointer, meta, score, direction, number):
    """Save a checkpoint; delete all but the best ones and the last two.

    The one before the last takes its place should it be damaged. SpeechBrain's
    ``save_and_keep_only`` would keep as many of the latest as of the best.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        SpeechBrain's, or an :class:`AtomicCheckpointer`.
    meta : dict
        Scores of the checkpoint.
    score : str
        What the best ones are picked by; see :func:`find_best`.
    direction : str
        ``min`` or ``max``.
    number : int
        How many of the best to keep.
    """
    checkpointer.save_checkpoint(meta=meta)
    kept = find_best(checkpointer, score, direction, number)
    kept += checkpointer.find_checkpoints(max_num_checkpoints=2)
    paths = {checkpoint.path for checkpoint in kept}
    checkpointer.delete_checkpoints(
        num_to_keep=0,
        importance_keys=[ckpt_recency],
        ckpt_predicate=lambda checkpoint: checkpoint.path not in paths,
    )
