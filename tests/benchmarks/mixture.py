"""Compare the sparse mixture with the masked dense form at full size.

> python tests/benchmarks/mixture.py

Both forms have the same weights and run in turn within one process, so that
what the machine does meanwhile meets both; reported are ratios of medians,
beside the share of (frame, expert) pairs that had to be computed. Peak memory
is what each form needs above weights and input.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from merit_modules.cost import pair_share
from merit_modules.experts import ExpertPool
from merit_modules.layer_mix import LayerNormConcat
from merit_modules.mixture import ExpertMixture
from merit_modules.peak_memory import PeakMemory
from merit_modules.routers import TopKRouter

TASKS = ("se", "ser")


def masked_dense(mixture, layer_reps, n_frames):
    """Do it as the released code does: every expert, every frame, a mask."""
    mix = mixture.layer_mix
    normed = [
        torch.nn.functional.layer_norm(rep, (mix.dim,), w, b, mix.eps)
        for rep, w, b in zip(layer_reps, mix.weight, mix.bias)
    ]
    features = torch.cat(normed, dim=-1).flatten(0, 1)
    everything = torch.stack([e(features) for e in mixture.experts], dim=1)
    outputs = {}
    for task in TASKS:
        probs = mixture.routers[task].linear(features).softmax(dim=-1)
        chosen = torch.zeros_like(probs)
        chosen.scatter_(1, probs.argmax(dim=-1, keepdim=True), 1.0)
        weights = chosen + probs - probs.detach()  # straight through
        outputs[task] = (chosen * weights).unsqueeze(-1) * everything
        outputs[task] = outputs[task].sum(dim=1)
    return outputs


def sparse(mixture, layer_reps, n_frames):
    """Do it as this project does."""
    out = mixture(layer_reps, n_frames)
    return {task: y.flatten(0, 1) for task, y in out.features.items()}


def run_once(form, mixture, layer_reps, n_frames, backward):
    """Run one form; return its outputs."""
    if not backward:
        with torch.no_grad():
            return form(mixture, layer_reps, n_frames)
    outputs = form(mixture, layer_reps, n_frames)
    sum(y.square().mean() for y in outputs.values()).backward()
    mixture.zero_grad(set_to_none=True)
    for rep in layer_reps:
        rep.grad = None
    return outputs


def timed(form, args, backward, device):
    """Return seconds and peak bytes of one run."""
    with PeakMemory(device) as memory:
        start = time.perf_counter()
        run_once(form, *args, backward)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds, memory.bytes


def balance(mixture, layer_reps, n_frames):
    """Make the random routers send frames to all experts."""
    with torch.no_grad():
        routing = mixture(layer_reps, n_frames).routing
        for task, router in mixture.routers.items():
            router.linear.bias -= routing[task].logits.mean(dim=0)


def measure(options):
    """Measure both forms, forward and forward + backward."""
    torch.manual_seed(0)
    layer_mix = LayerNormConcat(options.layers, options.dim)
    size = layer_mix.output_size
    mixture = ExpertMixture(
        layer_mix,
        ExpertPool(options.experts, size, options.hidden, options.output),
        {task: TopKRouter(size, options.experts) for task in TASKS},
    ).to(options.device)
    layer_reps = [
        torch.randn(1, options.frames, options.dim, device=options.device)
        for _ in range(options.layers)
    ]
    n_frames = torch.tensor([options.frames], device=options.device)
    args = (mixture, layer_reps, n_frames)
    balance(*args)
    rows = []
    for backward in (False, True):
        for rep in layer_reps:
            rep.requires_grad_(backward)
        ours = run_once(sparse, *args, backward)
        theirs = run_once(masked_dense, *args, backward)
        for task in TASKS:
            torch.testing.assert_close(
                ours[task], theirs[task], atol=1e-5, rtol=0
            )
        del ours, theirs
        found = {sparse: [], masked_dense: []}
        for _ in range(options.repeats):
            for form, values in found.items():
                values.append(timed(form, args, backward, options.device))
        seconds = [
            statistics.median(s for s, _ in found[form])
            for form in (sparse, masked_dense)
        ]
        peaks = [
            max(b for _, b in found[form]) for form in (sparse, masked_dense)
        ]
        rows.append(
            {
                "pass": "forward + backward" if backward else "forward",
                "sparse_s": seconds[0],
                "dense_s": seconds[1],
                "time_ratio": seconds[0] / seconds[1],
                "sparse_peak_gib": peaks[0] / 2**30,
                "dense_peak_gib": peaks[1] / 2**30,
                "memory_ratio": peaks[0] / peaks[1],
            }
        )
    with torch.no_grad():
        share = pair_share(mixture(layer_reps, n_frames).routing)
    return {
        "sizes": vars(options),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "computed_share": share,
        "rows": rows,
    }


def main():
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--output", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    result = measure(options)
    share = result["computed_share"]
    print(f"(frame, expert) pairs computed: {share:.3f} of all")
    print(f"{'':20}{'sparse':>10}{'dense':>10}{'ratio':>8}{'/ share':>9}")
    for row in result["rows"]:
        ratio = row["time_ratio"]
        print(
            f"{row['pass']:20}{row['sparse_s']:9.2f}s{row['dense_s']:9.2f}s"
            f"{ratio:8.3f}{ratio / share:9.3f}"
        )
        print(
            f"{'  peak memory':20}{row['sparse_peak_gib']:7.2f}GiB"
            f"{row['dense_peak_gib']:7.2f}GiB{row['memory_ratio']:8.3f}"
        )
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
