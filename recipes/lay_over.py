#!/usr/bin/env python3
"""Lay the recipes over a checkout of SpeechBrain, as a contribution would.

> python recipes/lay_over.py /path/to/speechbrain

Copies the recipe folders, adds their rows to tests/recipes/*.csv and orders
imports by the checkout's own rules. What is there already is written anew.

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

HERE = Path(__file__).resolve().parent
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
    if re.search(r"^ssl_source:", text, re.M):
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


def lay_over(checkout):
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
        order = ["ruff", "check", "--quiet", "--fix", "--select", "I"]
        scripts = [str(path) for path in target.glob("*.py")]
        subprocess.run(
            [sys.executable, "-m", *order, *scripts], cwd=checkout, check=True
        )
        print(f"written: {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", help="folder of SpeechBrain's repository")
    lay_over(parser.parse_args().checkout)
