"""The command ``merit``: what it shows, and the names it is called by."""

import subprocess
import sys

import pytest

import merit_modules
from merit_modules import names
from merit_modules.commands.__main__ import MODULES
from merit_modules.commands.__main__ import main as merit
from tests.conftest import ROOT

COMMANDS = (
    "analyze classify convert demo enhance evaluate export folds mix report "
    "train".split()
)


def run(*words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=cwd
    )


def test_without_arguments_it_shows_what_there_is(capsys):
    assert merit([]) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command} " in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert merit(["--version"]) == 0
    expected = f"merit {merit_modules.__version__}\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    assert merit([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: merit {command} ")
    assert "None" not in shown


def test_help_needs_no_library():
    code = (
        "import sys; from merit_modules.commands.__main__ import main\n"
        f"for command in {COMMANDS}: assert main([command, '--help']) == 0\n"
        "heavy = {'torch', 'speechbrain', 'transformers', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert len(MODULES) == len(COMMANDS) - 2  # three of them in one file


def test_choices_named_for_the_help_are_those_there_are():
    from merit_modules.commands import convert, mix, report
    from merit_modules.data.offline.write import FORMATS
    from merit_modules.lengths import RULES
    from merit_modules.report.compare import TESTS

    assert tuple(convert.RULES) == tuple(RULES)
    assert tuple(mix.FORMATS) == tuple(FORMATS)
    assert tuple(report.TESTS) == tuple(TESTS)


@pytest.mark.parametrize(
    "words, error",
    [
        (["fly"], "invalid choice: 'fly'"),
        (["report", "runs", "--out", "x", "--colour"], "--colour"),
        (["evaluate", "nowhere"], "nowhere: no run: there is no such folder"),
        (["train", "nowhere"], "nowhere: there is no such YAML file"),
        (["train", "sparse_merit", "--lrr", "1"], "no key 'lrr'"),
        (["convert", "nowhere", "out"], "nowhere"),
        (["mix", "no.yaml", "--split", "x", "--out", "y"], "no.yaml: there"),
    ],
)
def test_wrong_commands_end_with_one_message(words, error, capsys, caplog):
    assert merit(words) == 2
    told = capsys.readouterr().err + caplog.text
    assert error in told and "Traceback" not in told


@pytest.mark.parametrize(
    "words",
    [
        ["analyze", "Glück.wav", "--model", "m"],
        ["evaluate", "Läufe/1"],
        ["folds", "t.py", "h.yaml", "--", "--data_folder", "Körper"],
        ["mix", "h.yaml", "--split", "train", "--out", "Töne"],
        ["export", "run", "Modelle für alle"],
    ],
)
def test_a_locale_without_umlauts_is_named(words, monkeypatch):
    for key, value in (
        ("LC_ALL", "C"),
        ("PYTHONUTF8", "0"),
        ("PYTHONCOERCECLOCALE", "0"),
    ):
        monkeypatch.setenv(key, value)
    done = run("-m", "merit_modules.commands", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "(encoding ascii) does not have these characters" in done.stderr


@pytest.mark.parametrize(
    "module, command",
    [
        ("", ""),
        (".commands", ""),
        (".evaluate", " evaluate"),
        (".report", " report"),
        (".released", " convert"),
        (".data.offline", " mix"),
    ],
)
def test_modules_that_were_called_by_name(module, command):
    done = run("-m", f"merit_modules{module}", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: merit{command} [-h]")


@pytest.mark.parametrize(
    "old", [name for name in names.MOVED if "__main__" not in name]
)
def test_old_modules_are_found_and_warn(old):
    new = names.MOVED[old]
    code = (
        "import importlib, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    old = importlib.import_module('merit_modules.{old}')\n"
        f"new = importlib.import_module('merit_modules.{new}')\n"
        "assert old is new, (old, new)\n"
        "told = [str(w.message) for w in caught\n"
        "        if w.category is DeprecationWarning]\n"
        f"assert 'merit_modules.{old} is now merit_modules.{new}' in told"
    )
    namespace = {}
    exec(code, namespace)
    assert namespace["new"].__spec__.name == f"merit_modules.{new}"
