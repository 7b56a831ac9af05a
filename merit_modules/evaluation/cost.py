"""What a system costs: parameters and multiply-accumulate operations.

Counted are matrix products, convolutions, attention and recurrent layers: all
of a system but a fraction of a percent. Not counted are norms, activations,
softmax, weighted sums element by element, and Fourier transforms.
"""

import copy
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from speechbrain.utils.logger import get_logger
from torch.backends import mha
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from merit_modules.moe.mixture import ExpertMixture

logger = get_logger(__name__)
aten = torch.ops.aten


def count_macs(function):
    """Count the multiply-accumulates (MACs) that a call really computes.

    What depends on the data, as the frames that reach an expert do, is counted
    as it came out; padded frames count where they are computed. Meant for
    inference, on a CPU or on CUDA: backward passes of recurrent layers are not
    counted.

    Arguments
    ---------
    function : callable
        Called once, without arguments.

    Returns
    -------
    int
        MACs; one is two floating-point operations.

    Example
    -------
    >>> layer = torch.nn.Linear(8, 4)
    >>> count_macs(lambda: layer(torch.rand(5, 8)))
    160
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    with _no_fused_layers(), counter:
        function()
    return counter.get_total_flops() // 2


@contextmanager
def _no_fused_layers():
    # In inference, PyTorch may run an attention layer as one operator, which
    # hides its products.
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)


# PyTorch's own counter knows none of these and would count 0. The formulas get
# the operators' arguments, with shapes in place of tensors.


def _mv_flops(matrix, vector, **_):
    return 2 * prod(matrix)


def _attention_flops(query, key, value, *_, **__):
    return sdpa_flop_count(query, key, value)


def _linear_flops(frames, weight, *_, **__):
    return 2 * prod(frames) * weight[0]


def _lstm_layer_flops(frames, input_weight, hidden_weight, *_, **__):
    # One direction of one layer; frames (S, B, D).
    return 2 * prod(frames[:-1]) * (prod(input_weight) + prod(hidden_weight))


def _cudnn_rnn_flops(frames, weights, *_, **__):
    # All layers and directions; packed frames are (M, D).
    per_frame = sum(prod(w) for w in weights if len(w) == 2)
    return 2 * prod(frames[:-1]) * per_frame


_FLOPS = {
    aten.mv: _mv_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.mkldnn._linear_pointwise: _linear_flops,
    aten.mkldnn_rnn_layer: _lstm_layer_flops,
    aten._cudnn_rnn: _cudnn_rnn_flops,
}


def count_parameters(system):
    """Count parameters: all there are, and those that one frame can touch.

    Arguments
    ---------
    system : torch.nn.Module
        A system or a part of one.

    Returns
    -------
    dict
        ``total`` and ``active``. Active is what a single frame of all tasks
        uses at most: everything but the experts, and as many experts as the
        routers choose if no two of them agree.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> sparse, dense = tiny_system(top_k=1), tiny_system(top_k=3)
    >>> sizes, expert = count_parameters(sparse), sparse.mixture.experts[0]
    >>> sizes["total"] - sizes["active"] == count_parameters(expert)["total"]
    True
    >>> count_parameters(dense)["active"] == sizes["total"]
    True
    """
    idle = sum(
        _count_idle(part)
        for part in system.modules()
        if isinstance(part, ExpertMixture)
    )
    total = _count(system)
    return {"total": total, "active": total - idle}


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def _count_idle(mixture):
    n_chosen = sum(router.top_k for router in mixture.routers.values())
    n_idle = max(0, len(mixture.experts) - n_chosen)
    return sum(sorted(map(_count, mixture.experts))[:n_idle])


def pair_share(routing):
    """Compute the share of (frame, expert) pairs that some task chose.

    Only these are computed. With one expert per frame, two tasks and routers
    that choose evenly and independently it is 1 - (1 - 1 / E) ** 2 of E
    experts: 0.556 for three.

    Arguments
    ---------
    routing : dict
        Task name to :class:`~merit_modules.moe.routers.RoutingDecision` on the
        same M frames.

    Returns
    -------
    float or None
        The share, 0 to 1; None for a system without routers.

    Example
    -------
    >>> from merit_modules.moe.routers import TopKRouter
    >>> frames = torch.rand(5, 8)
    >>> pair_share({"se": TopKRouter(8, 4, top_k=1)(frames)})
    0.25
    """
    if not routing:
        return None
    chosen = torch.stack(
        [
            torch.zeros_like(decision.probs).scatter(
                1, decision.expert_index, 1.0
            )
            for decision in routing.values()
        ]
    )
    return chosen.amax(dim=0).double().mean().item()


@torch.no_grad()
def measure(system, wavs, wav_lens, duration_s, repeats=3):
    """Measure what inference of all of a system's tasks costs.

    Time and memory are taken in a process of its own, in which nothing else
    ran before, with as many threads as this one has.

    Arguments
    ---------
    system : torch.nn.Module
        A system, in evaluation mode.
    wavs : torch.Tensor
        Waveforms (B, N) on the system's device.
    wav_lens : torch.Tensor
        Relative lengths (B,).
    duration_s : float
        Audio in the batch without its padding, in seconds.
    repeats : int
        Timed runs; the median counts.

    Returns
    -------
    dict
        ``parameters``, ``active_parameters`` (what one frame can touch),
        ``macs_per_s`` (multiply-accumulates per second of audio), ``device``,
        ``threads``; from the other process (absent, with a warning, if it
        fails) ``own_process``, ``rtf`` (seconds of computing per second of
        audio) and ``peak_memory_bytes`` (above weights and input; absent where
        the machine does not tell).

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> wavs, lens = torch.randn(1, 8000), torch.ones(1)
    >>> found = measure(tiny_system().eval(), wavs, lens, duration_s=0.5)
    >>> found["parameters"] > found["active_parameters"], found["device"]
    (True, 'cpu')
    >>> found["own_process"], found["threads"] == torch.get_num_threads()
    (True, True)
    """
    n_macs = count_macs(lambda: _infer(system, wavs, wav_lens))
    sizes = count_parameters(system)
    found = {
        "parameters": sizes["total"],
        "active_parameters": sizes["active"],
        "macs_per_s": n_macs / duration_s,
        "device": wavs.device.type,
        "threads": torch.get_num_threads(),
    }
    try:
        seconds, n_bytes = _run_apart(system, wavs, wav_lens, repeats)
    except Exception as error:  # whatever a module's pickling may raise
        logger.warning(f"Time and memory of inference not measured: {error}")
        return found
    found |= {"own_process": True, "rtf": seconds / duration_s}
    if n_bytes is not None:
        found["peak_memory_bytes"] = n_bytes
    return found


def _infer(system, wavs, wav_lens):
    output = system(wavs, wav_lens)
    if output.enhancement is not None:
        system.enhanced_wavs(output, wavs.shape[1])
    if wavs.is_cuda:
        torch.cuda.synchronize()


def _run_apart(system, wavs, wav_lens, repeats):
    """Return seconds and bytes that another process found."""
    system = copy.deepcopy(system)
    # PyTorch pickles no weight norm: the weights that it gives stay. The
    # class, from which its own way would take the name, belongs to both.
    for module in list(system.modules()):
        module._load_state_dict_pre_hooks.clear()
        if parametrize.is_parametrized(module):
            weights = {n: getattr(module, n) for n in module.parametrizations}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, weight in weights.items():
                setattr(module, name, torch.nn.Parameter(weight.detach()))
    with tempfile.TemporaryFile() as stream:
        threads = torch.get_num_threads()
        torch.save((system, wavs, wav_lens, repeats, threads), stream)
        stream.seek(0)
        child = subprocess.run(
            [sys.executable, "-c", f"import {__name__} as c; c.run_here()"],
            stdin=stream,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    if child.returncode:
        lines = child.stderr.splitlines() or [f"exit code {child.returncode}"]
        raise RuntimeError(lines[-1])
    return json.loads(child.stdout.splitlines()[-1])


@torch.no_grad()
def run_here():
    """Be the other process: from standard input to seconds and bytes."""
    system, wavs, wav_lens, repeats, threads = torch.load(
        sys.stdin.buffer, weights_only=False
    )
    torch.set_num_threads(threads)
    # What is lazy is loaded now, by so little that it leaves no memory.
    n_short = min(wavs.shape[1], 8000)
    _infer(system, wavs[:1, :n_short], torch.ones_like(wav_lens[:1]))
    with PeakMemory(wavs.device.type) as memory:
        _infer(system, wavs, wav_lens)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        _infer(system, wavs, wav_lens)
        seconds.append(time.perf_counter() - start)
    print(json.dumps([statistics.median(seconds), memory.bytes]))


_STATM = Path("/proc/self/statm")


class PeakMemory:
    """Watches the process's resident memory; on CUDA, asks the allocator.

    Afterwards ``bytes`` is the growth at its highest, or None where the
    system does not tell.

    Arguments
    ---------
    device : str
        Type of the device that works, such as ``cpu``.

    Example
    -------
    >>> with PeakMemory("cpu") as memory:
    ...     _ = torch.zeros(10)
    >>> memory.bytes is None or memory.bytes >= 0
    True
    """

    def __init__(self, device):
        self.device = device
        self.bytes = None

    def __enter__(self):
        """Start watching."""
        self._start = self._peak = self._thread = None
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        elif _STATM.is_file():
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)  # what was freed would be taken again unnoticed
            self._start = self._peak = _resident_bytes()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._watch)
            self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, _resident_bytes())

    def __exit__(self, *exc_info):
        """Stop watching."""
        if self.device == "cuda":
            self._peak = torch.cuda.max_memory_allocated()
        elif self._thread is not None:
            self._stop.set()
            self._thread.join()
        if self._start is not None:
            self.bytes = self._peak - self._start


def _resident_bytes():
    pages = _STATM.read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
