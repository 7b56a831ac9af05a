"""Forms of a trained model for a CPU: size, speed, and what they change.

> python tests/benchmarks/deployment.py RUN --conditions unseen_5dB

RUN is a finished run on a real corpus. It is exported as fp32 and int8 folders
and as ONNX graphs of both kinds; each form then enhances and classifies the
run's own test mixtures, one utterance at a time. Times are taken in turn over
some of them; scores are those of ``results.json``, also of all conditions
together.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import (
    interleave,
    machine,
    median_ratio,
    medians,
    print_table,
    write_json,
)

from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.evaluation.metrics.enhancement import si_sdr_db
from merit_modules.export.exporter import export_run
from merit_modules.export.onnx.runtime import OnnxMERIT
from merit_modules.inference import SparseMERIT
from merit_modules.training import experiment, recipe

COLUMNS = (
    ("form", "form", "{}"),
    ("MB", "megabytes", "{:.1f}"),
    ("s/s", "s_per_s", "{:.4f}"),
    ("x fp32", "time_ratio", "{:.3f}"),
    ("F1-macro", "f1_macro", "{:.4f}"),
    ("SI-SDR/dB", "si_sdr_db", "{:.3f}"),
    ("same label", "same_label", "{:.4f}"),
    ("same expert", "same_expert", "{:.4f}"),
    ("SI-SDR to fp32/dB", "si_sdr_to_fp32_db", "{:.1f}"),
)


def forms_of(run, folder, threads):
    """Export all forms; return name to what analyses a waveform, and MB."""
    forms, megabytes = {}, {}
    for int8 in (False, True):
        kind = "int8" if int8 else "fp32"
        where = folder / kind
        export_run(run, where, int8=int8, onnx=True)
        weights = where / "model.safetensors"
        megabytes[kind] = weights.stat().st_size / 1e6
        model = SparseMERIT.from_hparams(
            source=where, run_opts={"device": "cpu"}
        )
        forms[kind] = model.analyze
        graph = where / "model.onnx"
        files = [graph, *where.glob("model.onnx.data")]
        name = f"onnx {kind}"
        megabytes[name] = sum(f.stat().st_size for f in files) / 1e6
        runtime = OnnxMERIT(graph, threads=threads)
        forms[name] = lambda wav, r=runtime: r.analyze(wav.numpy())
    return forms, megabytes


def read(found):
    """Take label, enhanced speech and routing out of either kind's result."""
    emotion = getattr(found, "emotion", found)
    routing = [np.asarray(found.routing[t]) for t in sorted(found.routing)]
    experts = np.concatenate(routing) if routing else np.zeros(0, int)
    return emotion.label, np.asarray(found.enhanced), experts


def analyse_all(mixtures, forms):
    """Run every form on every mixture."""
    return {
        name: [read(analyse(noisy)) for noisy, _, _ in mixtures]
        for name, analyse in forms.items()
    }


def score(mixtures, results, labels):
    """Compare what the forms found with the truth and with fp32: rows."""
    truth = [label for _, _, label in mixtures]
    rows = {}
    for name, found in results.items():
        scores = classification_scores(
            [labels.index(label) for label, _, _ in found], truth, labels
        )
        si_sdr = [
            si_sdr_db(enhanced, clean.numpy())
            for (_, enhanced, _), (_, clean, _) in zip(found, mixtures)
        ]
        rows[name] = {
            "f1_macro": scores["f1_macro"],
            "si_sdr_db": float(np.mean(si_sdr)),
        }
        if name == "fp32":
            continue
        pairs = list(zip(found, results["fp32"]))
        same = np.concatenate([a[2] == b[2] for a, b in pairs])
        rows[name] |= {
            "same_label": float(np.mean([a[0] == b[0] for a, b in pairs])),
            "same_expert": float(same.mean()) if len(same) else None,
            "si_sdr_to_fp32_db": float(
                np.mean([si_sdr_db(a[1], b[1]) for a, b in pairs])
            ),
        }
    return rows


def mixtures_of(run, name):
    """Read the test mixtures of a condition: noisy, clean, class."""
    hparams = experiment.load_run(run)
    data = recipe.dataio_prepare(hparams)
    known = {c.name: c for c in data.conditions}
    if name not in known:
        raise SystemExit(f"expected one of {', '.join(known)}, got {name}")
    dataset = known[name].dataset
    labels = list(hparams["ser_outputs"])
    items = [dataset[number] for number in range(len(dataset))]
    return labels, [
        (item["noisy_wav"], item["clean_wav"], int(item["ser_label"]))
        for item in items
    ]


def measure(options):
    """Measure all forms under all conditions."""
    if options.threads:
        torch.set_num_threads(options.threads)
    result = {"machine": machine(threads=options.threads), "conditions": {}}
    with tempfile.TemporaryDirectory() as folder:
        forms, megabytes = forms_of(options.run, Path(folder), options.threads)
        mixtures, results = [], {name: [] for name in forms}
        for name in options.conditions:
            labels, some = mixtures_of(options.run, name)
            some = some[: options.utterances]
            found = analyse_all(some, forms)
            result["conditions"][name] = score(some, found, labels)
            mixtures += some
            for form in forms:
                results[form] += found[form]
        if len(options.conditions) > 1:
            rows = score(mixtures, results, labels)
            result["conditions"]["all of these"] = rows
        timed = [noisy for noisy, _, _ in mixtures[: options.timed]]
        audio_s = sum(map(len, timed)) / 16000
        times = interleave(
            {
                form: lambda a=analyse: [a(wav) for wav in timed]
                for form, analyse in forms.items()
            },
            options.repeats,
        )
    for rows in result["conditions"].values():
        for form, row in rows.items():
            row |= {
                "form": form,
                "megabytes": megabytes[form],
                "s_per_s": medians(times)[form] / audio_s,
                "time_ratio": median_ratio(times[form], times["fp32"]),
            }
    return result


def main(arguments=None):
    """Measure and print tables; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="output folder of a finished run")
    parser.add_argument("--conditions", nargs="+", default=["unseen_5dB"])
    parser.add_argument("--utterances", type=int, help="of each; all")
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    result = measure(options)
    for name, rows in result["conditions"].items():
        print(name)
        print_table(COLUMNS, list(rows.values()), options.markdown)
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
