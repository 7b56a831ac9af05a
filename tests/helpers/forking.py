"""Commands in processes of their own, without waiting for PyTorch each time.

A process that has imported what commands need, and done nothing, forks for
each. To the command, all is as in a new process, but for what a variable of
the environment decides on at import; such commands are started as usual.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT

SERVER = """
import gc, json, os, runpy, sys
import merit_modules.commands.evaluate, merit_modules.training.recipe
import matplotlib.pyplot, pystoi, sklearn.metrics, tensorboard
import torch.utils.tensorboard, transformers.models.wavlm.modeling_wavlm

def serve():
    for line in iter(sys.stdin.readline, ""):
        task = json.loads(line)
        child = os.fork()
        if not child:
            return task
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()

gc.collect()
gc.freeze()  # what is here now is not looked at again, by any of them
task = serve()
os.chdir(task["cwd"])
os.environ.clear()
os.environ.update(task["env"])
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for name, number in (("stdout", 1), ("stderr", 2)):
    os.dup2(os.open(task[name], os.O_WRONLY), number)
option, *sys.argv = task["words"]
if option == "-c":
    code, sys.argv[0], sys.path[0] = sys.argv[0], "-c", ""
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
elif option == "-m":
    sys.path[0] = task["cwd"]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = task["words"]
    sys.path[0] = os.path.dirname(os.path.abspath(option))
    runpy.run_path(option, run_name="__main__")
"""


def run(words, cwd=ROOT, **env):
    """Run Python with some words, as ``python WORDS``.

    Arguments
    ---------
    words : iterable
        A script, or ``-c`` and a program, or ``-m`` and a module; arguments.
    cwd : str or Path
        Where.
    **env : str
        More variables of the environment.

    Returns
    -------
    subprocess.CompletedProcess
        With what it has said, as text.
    """
    words = [str(word) for word in words]
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        said = {name: Path(folder) / name for name in ("stdout", "stderr")}
        task = {"words": words, "cwd": str(cwd), "env": os.environ | env}
        for name, path in said.items():
            path.touch()
            task[name] = str(path)
        print(json.dumps(task), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        texts = {name: path.read_text() for name, path in said.items()}
    return subprocess.CompletedProcess(words, code, **texts)


@functools.cache
def _server():
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(server.kill)
    return server
