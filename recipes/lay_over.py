#!/usr/bin/env python3
"""Lay the recipes over a checkout of SpeechBrain, as a contribution would.

> python recipes/lay_over.py /path/to/speechbrain

Copies the recipe folders, adds their rows to tests/recipes/*.csv and orders
imports by the checkout's own rules. What is there already is written anew.
With --lobes, the mixture, the heads and the routers' losses go to
speechbrain/lobes/models/sparse_merit, too, without what makes CPUs fast.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import argparse
import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

#: Each expert on its frames; the class's own forward is what remains.
PLAIN = """\
    # An idle expert still runs, on no frame: its parameters then have a
    # gradient (zero) on every rank, which distributed training needs.
    results = [
        checkpoint(_serve, expert, features, rows, use_reentrant=False)
        if checkpoint_experts
        else _serve(expert, features, rows)
        for expert, rows in zip(experts, plan.rows)
    ]
"""
HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "merit_modules"
AUTHORS = " * The contributors of Sparse MERIT for SpeechBrain 2026"
LOBES = "speechbrain.lobes.models.sparse_merit"
#: From PyTorch alone and each other.
LOBE_FILES = (
    "lengths.py",
    *(f"moe/{name}.py" for name in ("layer_mix", "routers", "experts")),
    *(f"moe/{name}.py" for name in ("mixture", "task_sums")),
    *(f"heads/{name}.py" for name in ("se", "ser", "spectral")),
    "losses/routing.py",
)
#: What makes CPUs and GPUs fast: file to what is left out of it. From here, to
#: there, and what comes instead.
CPU_PARTS = {
    "moe/experts.py": [
        ("from merit_modules.cpu import onednn\n\n\n", "class Feed", "\n"),
        (
            "    def forward(self, frames):\n",
            "class LayerMixingExpert",
            "\n",
        ),
    ],
    "moe/layer_mix.py": [
        ("from merit_modules.cpu import onednn\n", "from merit_modules", ""),
        ("        if not onednn.suits", "        normed = self.normed", ""),
        ("    def _rows_at_once(", "def _use_affine(", "\n\n"),
    ],
    "moe/mixture.py": [
        ("#: Frames that an expert takes at once", "class MixtureOutput", ""),
        (
            "    # Once, not for each expert.\n",
            "    results = torch.cat(results)\n",
            PLAIN,
        ),
        ("from merit_modules.cpu import onednn\n", "from merit_modules", ""),
        ("def _infer(", "def _combine(", ""),
    ],
    "heads/ser.py": [(", strict=True", ")", "")],
}
PREPARATIONS = {
    "IEMOCAP": "iemocap_prepare.py",
    "MSP-Podcast": "msp_podcast_prepare.py",
    "EMODB": "emodb_prepare.py",
    "Manifest": "manifest_prepare.py",
}
#: On SpeechBrain's own samples: no corpus, no hub but for trained encoders.
FLAGS = (
    "--skip_prep=True --noise_folder=tests/samples/noise "
    "--speech_root=tests/samples/ASR --noise_root=tests/samples/noise "
    "--train_annotation=tests/samples/annotation/ASR_train.json "
    "--valid_annotation=tests/samples/annotation/ASR_dev.json "
    "--test_annotation=tests/samples/annotation/ASR_dev.json "
    "--noise_annotation=tests/samples/annotation/noise.csv "
    "--test_sets=[test] --test_noise_sets=[test_unseen] --test_snrs_db=[0] "
    "--emotions=[anger,happiness,neutrality,sadness] "
    "--metrics=[si_sdr_db] --num_workers=0 --num_metric_workers=0 "
    "--stage_1_epochs=1 --stage_2_epochs=1"
)
SMALL_ENCODER = "--ssl_source=microsoft/wavlm-base-plus"
FILES = "train.py,train_log.txt,log.txt,env.log,hyperparams.yaml"


def flags_of(text):
    """Say with which options a YAML file is tried out."""
    flags = FLAGS
    for key, value in (
        ("data_folder", "tests/samples/ASR"),
        ("manifest_csv", "tests/samples/annotation/ASR_train.csv"),
        ("init_from", "tests/tmp/merit_release"),
    ):
        if re.search(rf"^{key}: !PLACEHOLDER", text, re.M):
            flags += f" --{key}={value}"
    if re.search(r"^ser_target: attributes", text, re.M):
        flags += " --ser_target=emotion --checkpoint_score=ser_ce"
        flags += " --ser_outputs=[anger,happiness,neutrality,sadness]"
    if re.search(r"^ssl_source: (?!mini\b)", text, re.M):
        flags += f" {SMALL_ENCODER}"
    return flags


def rows_of(corpus, folder):
    """Make the rows of tests/recipes/<corpus>.csv, one per YAML file."""
    place = f"recipes/{corpus}/joint_se_ser"
    for path in sorted((folder / "hparams").glob("*.yaml")):
        yield {
            "Task": "Joint_enhancement_and_emotion_recognition",
            "Dataset": corpus,
            "Script_file": f"{place}/train.py",
            "Hparam_file": f"{place}/hparams/{path.name}",
            "Data_prep_file": f"{place}/{PREPARATIONS[corpus]}",
            "Readme_file": f"{place}/README.md",
            "test_debug_flags": flags_of(path.read_text(encoding="utf-8")),
            "test_debug_checks": f"file_exists=[{FILES}]",
            "performance": "",
        }


def add_rows(path, template, rows):
    """Write rows into a CSV file, in place of those of the same YAML files."""
    rows = list(rows)
    new = {row["Hparam_file"] for row in rows}
    kept, columns = [], []
    for source in (path, template):
        if source.is_file() and not columns:
            text = source.read_text(encoding="utf-8")
            reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
            columns = reader.fieldnames
            if source == path:
                kept = [r for r in reader if r["Hparam_file"] not in new]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(
            stream, columns, restval="", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(kept + rows)


def copy_recipe(source, target):
    """Copy a recipe; links that lead out of it become plain words."""
    ignored = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    page = target / "README.md"
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"\[([^\]]+)\]\s*\((?:\.\./)+[^)]*\)", r"\1", text)
    page.write_text(text, encoding="utf-8")


def lobe(path):
    """Give a file of the package as SpeechBrain would have it."""
    text = (PACKAGE / path).read_text(encoding="utf-8")
    for start, end, new in CPU_PARTS.get(path, ()):
        before, found, rest = text.partition(start)
        inside, also, after = rest.partition(end)
        if not (found and also):
            sys.exit(f"{path}: expected {start!r}, then {end!r}")
        text = before + new + end + after
    text = text.replace("from merit_modules.errors import InputError\n", "")
    text = text.replace("InputError", "ValueError")
    text = re.sub(
        r"merit_modules\.(?:moe|heads|losses)?\.?(\w+)(?= import|:|`)",
        rf"{LOBES}.\1",
        text,
    )
    text = re.sub(r"merit_modules\.(?:moe|heads|losses)\b", LOBES, text)
    head, _, body = text.partition('"""\n')
    return f'{head.rstrip()}\n\nAuthors\n{AUTHORS}\n"""\n{body}'


def lay_lobes(checkout):
    """Write the lobes; return their folder."""
    folder = checkout.joinpath(*LOBES.split("."))
    folder.mkdir(exist_ok=True)
    about = "Sparse mixture of experts over the layers of an SSL encoder."
    (folder / "__init__.py").write_text(
        f'"""{about}\n\nAuthors\n{AUTHORS}\n"""\n', encoding="utf-8"
    )
    for path in LOBE_FILES:
        name = folder / Path(path).name
        name.write_text(lobe(path), encoding="utf-8")
    return folder


def lay_over(checkout, lobes=False):
    """Lay all recipes over a checkout."""
    checkout = Path(checkout)
    if not (checkout / "tests" / "recipes" / "IEMOCAP.csv").is_file():
        sys.exit(f"{checkout}: expected a checkout of SpeechBrain")
    for corpus in PREPARATIONS:
        source = HERE / corpus / "joint_se_ser"
        target = checkout / "recipes" / corpus / "joint_se_ser"
        copy_recipe(source, target)
        rows = checkout / "tests" / "recipes"
        add_rows(
            rows / f"{corpus}.csv",
            rows / "IEMOCAP.csv",
            rows_of(corpus, source),
        )
        put_in_order(target, checkout)
    if lobes:
        put_in_order(lay_lobes(checkout), checkout)


def put_in_order(folder, checkout):
    """Order the imports of a folder as the checkout wants them."""
    scripts = [str(path) for path in folder.glob("*.py")]
    for action in (["check", "--fix", "--select", "I"], ["format"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *action, "--quiet", *scripts],
            cwd=checkout,
            check=True,
        )
    print(f"written: {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", help="folder of SpeechBrain's repository")
    parser.add_argument(
        "--lobes", action="store_true", help="also the lobes themselves"
    )
    options = parser.parse_args()
    lay_over(options.checkout, options.lobes)
