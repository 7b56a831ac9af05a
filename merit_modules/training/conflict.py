"""How far the gradients of two tasks agree, part by part, over a training."""

import json
import math
from pathlib import Path

import torch

from merit_modules.errors import InputError
from merit_modules.files import write_atomically
from merit_modules.training.gradients import inner_product


@torch.no_grad()
def conflict(gradients, parameters, groups):
    """Measure the angle between the gradients of two tasks.

    Arguments
    ---------
    gradients : dict
        Two task names, each to its P gradients (torch.Tensor or None), see
        :func:`~merit_modules.training.gradients.task_gradients`.
    parameters : sequence of torch.nn.Parameter
        The P parameters.
    groups : dict
        Group name to some of the parameters, see
        :func:`~merit_modules.training.gradients.parameter_groups`.

    Returns
    -------
    dict
        Group name to a dict with ``cosine`` (-1: the tasks pull in opposite
        directions; None where a task gives the group no gradient) and the
        length of each task's gradient, ``norm_<task>`` (None where it
        overflowed, as it may in half precision).

    Raises
    ------
    ValueError
        If there are not two tasks, or if a group has a parameter that is not
        among ``parameters``.

    Example
    -------
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> gradients = {"se": [torch.tensor([3.0, 4.0])], "ser": [-torch.ones(2)]}
    >>> for name, value in conflict(gradients, [w], {"w": [w]})["w"].items():
    ...     print(name, round(value, 4))
    cosine -0.9899
    norm_se 5.0
    norm_ser 1.4142
    """
    if len(gradients) != 2:
        raise ValueError(
            f"gradients: expected two tasks, got {list(gradients)}"
        )
    if not groups:
        return {}
    place = {parameter: i for i, parameter in enumerate(parameters)}
    products = []
    for name, members in groups.items():
        if not all(parameter in place for parameter in members):
            raise ValueError(
                f"groups: {name!r} has a parameter that is not in parameters"
            )
        first, second = (
            [gradients[task][place[parameter]] for parameter in members]
            for task in gradients
        )
        device = members[0].device
        for a, b in ((first, second), (first, first), (second, second)):
            products.append(inner_product(a, b, device))
    # The only time that the host waits for the device.
    rows = torch.stack(products).view(-1, 3).tolist()
    return {name: _angle(row, gradients) for name, row in zip(groups, rows)}


def _angle(products, tasks):
    inner, *squares = products
    norms = [math.sqrt(s) if math.isfinite(s) else None for s in squares]
    # Below, a sum of squares in float32 has too few digits left.
    smallest = torch.finfo(torch.float32).tiny
    cosine = None
    if None not in norms and min(squares) >= smallest:
        cosine = max(-1.0, min(1.0, inner / math.prod(norms)))
    named = {f"norm_{task}": norm for task, norm in zip(tasks, norms)}
    return {"cosine": cosine, **named}


class ConflictLog:
    """Keeps the measurements of a training in a JSON file.

    The file is an object with

    - ``measurements``: in the order of steps, each with ``step``, ``epoch``,
      ``groups`` (as :func:`conflict` returns them) and ``negative_share``, the
      share of groups whose cosine is below 0;
    - ``summary``: per group ``mean_cosine``, ``negative_share`` and ``n``, over
      the n measurements with a cosine;
    - ``negative_share``: over all cosines.

    What has nothing to average is null. A run that is resumed continues the
    file: a measurement takes the place of all that were made at its step or
    later.

    Arguments
    ---------
    path : str or Path
        JSON file; if it exists, it is continued.
    tensorboard_logger : TensorboardLogger, optional
        SpeechBrain's; gets ``gradient_cosine/<group>`` and
        ``gradient_cosine/negative_share``.

    Raises
    ------
    InputError
        If the file exists and is not of this form.

    Example
    -------
    >>> log = ConflictLog(getfixture("tmp_path") / "conflict.json")
    >>> group = {"cosine": -0.5, "norm_se": 1.0, "norm_ser": 2.0}
    >>> log.add(10, 1, {"expert_0": group})
    >>> log.add(20, 1, {"expert_0": {**group, "cosine": 0.25}})
    >>> json.loads(log.path.read_text())["summary"]
    {'expert_0': {'mean_cosine': -0.125, 'negative_share': 0.5, 'n': 2}}
    """

    def __init__(self, path, tensorboard_logger=None):
        self.path = Path(path)
        self.tensorboard_logger = tensorboard_logger
        self.measurements = _read(self.path)

    def add(self, step, epoch, measurement):
        """Add a measurement and write the file.

        Arguments
        ---------
        step : int
            Step of the training.
        epoch : int
            Its epoch.
        measurement : dict
            What :func:`conflict` returned.
        """
        groups = {
            name: {key: _rounded(value) for key, value in values.items()}
            for name, values in measurement.items()
        }
        cosines = _cosines(groups)
        entry = {
            "step": step,
            "epoch": epoch,
            "negative_share": _negative_share(cosines.values()),
            "groups": groups,
        }
        self._drop_from(step)
        self.measurements.append(entry)
        self._write()
        self._show(step, {**cosines, "negative_share": entry["negative_share"]})

    def resume(self, step):
        """Drop the measurements that a resumed run makes again.

        Arguments
        ---------
        step : int
            First step that is yet to come; 0 starts the file anew.
        """
        if self._drop_from(step):
            self._write()

    def _drop_from(self, step):
        kept = [m for m in self.measurements if m["step"] < step]
        dropped = len(self.measurements) - len(kept)
        self.measurements = kept
        return dropped

    def _write(self):
        by_group, everything = {}, []
        for measurement in self.measurements:
            for name in measurement["groups"]:
                by_group.setdefault(name, [])
            for name, cosine in _cosines(measurement["groups"]).items():
                by_group[name].append(cosine)
                everything.append(cosine)
        summary = {name: _summary(found) for name, found in by_group.items()}
        # One measurement a line: a model has dozens of groups.
        lines = ",\n".join(json.dumps(m) for m in self.measurements)
        write_atomically(
            self.path,
            f'{{"measurements": [\n{lines}\n],\n'
            f'"summary": {json.dumps(summary, indent=1)},\n'
            f'"negative_share": {json.dumps(_negative_share(everything))}}}\n',
        )

    def _show(self, step, values):
        if self.tensorboard_logger is None:
            return
        for name, value in values.items():
            if value is not None:
                self.tensorboard_logger.writer.add_scalar(
                    f"gradient_cosine/{name}", value, step
                )


def _cosines(groups):
    found = {name: values["cosine"] for name, values in groups.items()}
    return {
        name: cosine for name, cosine in found.items() if cosine is not None
    }


def _summary(cosines):
    n = len(cosines)
    return {
        "mean_cosine": _rounded(sum(cosines) / n) if n else None,
        "negative_share": _negative_share(cosines),
        "n": n,
    }


def _negative_share(cosines):
    signs = [cosine < 0 for cosine in cosines]
    return _rounded(sum(signs) / len(signs)) if signs else None


def _rounded(value):
    return None if value is None else float(f"{value:.6g}")


def _read(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:  # not JSON, or not UTF-8
        raise InputError(
            f"{path}: expected a JSON log of gradient conflicts, could not "
            f"parse it: {error}"
        ) from None
    found = content.get("measurements") if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise InputError(
            f"{path}: expected a JSON log of gradient conflicts with a list "
            "of measurements, got something else"
        )
    for number, measurement in enumerate(found):
        if not _is_whole(measurement):
            raise InputError(
                f"{path}: measurement {number}: expected step, epoch and the "
                f"cosines of groups, got {str(measurement)[:80]}"
            )
    return found


def _is_whole(measurement):
    if not isinstance(measurement, dict):
        return False
    groups = measurement.get("groups")
    numbered = all(
        isinstance(measurement.get(k), int) for k in ("step", "epoch")
    )
    return (
        numbered
        and isinstance(groups, dict)
        and all(
            isinstance(values, dict)
            and isinstance(values.get("cosine", ""), (float, int, type(None)))
            for values in groups.values()
        )
    )
