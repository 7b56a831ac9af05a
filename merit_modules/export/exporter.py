"""Put a run's parts together into a folder."""

import copy
from pathlib import Path

from merit_modules.cpu.int8 import quantize_
from merit_modules.export.card import about_run, model_card
from merit_modules.export.card_metadata import corpus_about
from merit_modules.export.finished_run import read_finished_run
from merit_modules.pretrained import check_replaceable, save_folder
from merit_modules.pretrained.save import ONNX_FILES


def export_run(
    run_folder,
    folder,
    average=1,
    labels=None,
    about=None,
    int8=False,
    onnx=False,
    trust=False,
):
    """Export a finished run.

    Arguments
    ---------
    run_folder : str or Path
        The run's output folder, wherever it is now. Neither its corpus nor
        its recipe needs to be there.
    folder : str or Path
        Where to; an earlier export there is replaced, card included.
    average : int
        How many of the best checkpoints are averaged; the run must have kept
        as many (``keep_checkpoints``).
    labels : sequence of str, optional
        Classes in the order of the logits: only for a run that was not tested
        and whose classes were read from its corpus.
    about : dict, optional
        Facts of the corpus that replace those of the run; see
        :class:`~merit_modules.export.card_metadata.CorpusAbout`.
    int8 : bool
        Quantise the linear layers, for CPUs; see
        :mod:`merit_modules.cpu.int8`.
    onnx : bool
        Also write ``model.onnx``, in 8 bits if ``int8`` is; see
        :mod:`merit_modules.export.onnx`.
    trust : bool
        Whether the run's YAML may build and call whatever it names; see
        :mod:`merit_modules.pretrained.trust`.

    Returns
    -------
    FinishedRun
        What was exported.

    Raises
    ------
    InputError
        Naming what is missing, or what else is in the folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> export_run(folder / "run", folder / "model")
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: no run: it has no file composed.yaml
    """
    folder = Path(folder)
    check_replaceable(folder)
    if onnx:
        from merit_modules.export.onnx.writer import check_packages

        check_packages()
    run = read_finished_run(run_folder, average, labels, trust)
    about = corpus_about(run.hparams, about)
    # First, since it counts parameters, which quantised layers have none of.
    card = model_card(run, about, folder.resolve().name, int8)
    system = run.system
    if int8:
        system = quantize_(copy.deepcopy(system) if onnx else system)
    save_folder(
        system,
        folder,
        run.labels,
        run.hparams["sample_rate_hz"],
        about=about_run(run, about, int8),
        facts=_facts(run),
        card=card,
    )
    if onnx:
        _write_onnx(run, folder, int8)
    return run


def _write_onnx(run, folder, int8):
    # Its packages are asked for by those alone who want it.
    from merit_modules.export.onnx.writer import export_onnx

    export_onnx(
        run.system,
        folder / ONNX_FILES[0],
        run.labels,
        run.hparams["sample_rate_hz"],
        _facts(run),
        int8=int8,
    )


def _facts(run):
    names = ["corpus_name", "system_name"]
    if "ser" in run.tasks:
        names.insert(0, "ser_target")
        if run.hparams["ser_target"] == "attributes":
            names.insert(1, "attribute_scale")
    facts = {name: run.hparams[name] for name in names}
    if "ser" in run.tasks and "temperature" in run.weights.validation:
        facts["temperature"] = round(run.weights.validation["temperature"], 4)
    return facts
