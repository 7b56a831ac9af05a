"""Compare the sparse mixture with the masked dense form and with its floor.

> python tests/benchmarks/mixture.py

The floor is the time that the matrix products of the (frame, expert) pairs
take that must be computed, at their real shapes, into memory that is there:
forward the two products of each expert, backward two more for each. Both forms
have the same weights; they and the floor run in turn within one process, so
that what the machine does meanwhile meets all. Peak memory is what each form
needs above weights and input.
"""

import argparse
import itertools
from functools import partial

import common
import torch

from merit_modules.evaluation.cost import pair_share
from merit_modules.moe.experts import ExpertPool
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture, plan_dispatch
from merit_modules.moe.routers import TopKRouter

TASKS = ("se", "ser")
#: Heading, key of a row, format.
COLUMNS = (
    ("experts", "experts", "{}"),
    ("frames", "frames", "{}"),
    ("pass", "pass", "{}"),
    ("pairs", "computed_share", "{:.3f}"),
    ("sparse s", "sparse_s", "{:.2f}"),
    ("x floor", "floor_ratio", "{:.3f}"),
    ("x dense", "time_ratio", "{:.3f}"),
    ("GFLOP/s", "gflop_per_s", "{:.0f}"),
    ("peak GiB", "sparse_peak_gib", "{:.2f}"),
    ("x dense", "memory_ratio", "{:.3f}"),
)
LEGEND = """\
pairs: share of (frame, expert) pairs that are computed, of all
sparse s: median seconds; x floor: over the best run of the bare matrix products
x dense: over the masked dense form, time and peak memory
GFLOP/s: rate of the bare matrix products"""


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
    out = mixture.route(layer_reps, n_frames)
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


class Floor:
    """The bare matrix products of one pass."""

    def __init__(self, mixture, layer_reps, n_frames, backward):
        with torch.no_grad():
            routing = mixture.route(layer_reps, n_frames).routing
        plan = plan_dispatch(list(routing.values()), len(mixture.experts))
        self.share = pair_share(routing)
        self.counts = [len(rows) for rows in plan.rows if len(rows)]
        self.layers = [
            (expert[0].weight.detach(), expert[2].weight.detach())
            for expert, rows in zip(mixture.experts, plan.rows)
            if len(rows)
        ]
        self.backward = backward
        first, second = self.layers[0]
        make = partial(torch.rand, max(self.counts), device=first.device)
        self.inputs = make(first.shape[1]), make(second.shape[1])
        self.outputs = make(second.shape[1]), make(second.shape[0])
        if backward:
            self.grads = [torch.empty_like(w) for w in (first, second)]
            self.back = [torch.empty_like(x) for x in self.inputs]

    @property
    def n_flops(self):
        """Floating-point operations."""
        pass_flops = sum(
            2 * count * sum(w.numel() for w in weights)
            for count, weights in zip(self.counts, self.layers)
        )
        return pass_flops * (3 if self.backward else 1)

    @torch.no_grad()
    def __call__(self):
        """Run all products."""
        for count, weights in zip(self.counts, self.layers):
            for i, weight in enumerate(weights):
                x, y = self.inputs[i][:count], self.outputs[i][:count]
                torch.mm(x, weight.t(), out=y)
                if self.backward:
                    torch.mm(y, weight, out=self.back[i][:count])
                    torch.mm(y.t(), x, out=self.grads[i])


def balance(mixture, layer_reps, n_frames):
    """Make the random routers send frames to all experts."""
    with torch.no_grad():
        routing = mixture.route(layer_reps, n_frames).routing
        for task, router in mixture.routers.items():
            router.linear.bias -= routing[task].logits.mean(dim=0)


def build(options, n_experts):
    """Build a mixture with random weights."""
    layer_mix = LayerNormConcat(options.layers, options.dim)
    size = layer_mix.output_size
    return ExpertMixture(
        layer_mix,
        ExpertPool(n_experts, size, options.hidden, options.output),
        {task: TopKRouter(size, n_experts) for task in TASKS},
        checkpoint_experts=options.checkpoint_experts,
    ).to(options.device)


def check_equal(args, backward):
    """Make sure that both forms give the same."""
    ours, theirs = (
        run_once(form, *args, backward) for form in (sparse, masked_dense)
    )
    for task in TASKS:
        torch.testing.assert_close(ours[task], theirs[task], atol=1e-5, rtol=0)


def measure_pass(args, backward, options):
    """Measure one pass of one mixture on one batch."""
    for rep in args[1]:
        rep.requires_grad_(backward)
    check_equal(args, backward)
    floor = Floor(*args, backward)
    forms = {
        "sparse": partial(run_once, sparse, *args, backward),
        "dense": partial(run_once, masked_dense, *args, backward),
    }
    found = common.interleave(
        forms | {"floor": floor}, options.repeats, options.device
    )
    seconds, share = common.medians(found), floor.share
    best, gflop = min(found["floor"]), floor.n_flops / 1e9
    del floor
    peaks = {
        name: common.peak_bytes(form, options.device)
        for name, form in forms.items()
    }
    row = {
        "pass": "forward + backward" if backward else "forward",
        "computed_share": share,
        "sparse_s": seconds["sparse"],
        "dense_s": seconds["dense"],
        "floor_s": best,
        "gflop_per_s": gflop / best,
        "floor_ratio": seconds["sparse"] / best,
        "best_floor_ratio": min(found["sparse"]) / best,
        "time_ratio": common.median_ratio(found["sparse"], found["dense"]),
        "seconds": found,
    }
    if all(peaks.values()):
        row |= {f"{k}_peak_gib": n / 2**30 for k, n in peaks.items()}
        row["memory_ratio"] = peaks["sparse"] / peaks["dense"]
    return row


def measure(options):
    """Measure all sizes asked for, forward and forward + backward."""
    rows = []
    for n_experts in options.experts:
        torch.manual_seed(0)
        mixture = build(options, n_experts)
        for frames, backward in itertools.product(
            options.frames, options.passes
        ):
            layer_reps = [
                torch.randn(1, frames, options.dim, device=options.device)
                for _ in range(options.layers)
            ]
            n_frames = torch.tensor([frames], device=options.device)
            args = (mixture, layer_reps, n_frames)
            balance(*args)
            row = measure_pass(args, backward == "backward", options)
            rows.append({"experts": n_experts, "frames": frames, **row})
    return {
        "sizes": vars(options),
        "machine": common.machine(options.device),
        "rows": rows,
    }


def main(arguments=None):
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--output", type=int, default=1024)
    parser.add_argument("--experts", type=int, nargs="+", default=[3])
    parser.add_argument("--frames", type=int, nargs="+", default=[1000])
    parser.add_argument(
        "--passes",
        nargs="+",
        choices=("forward", "backward"),
        default=["forward", "backward"],
        help="backward: forward and backward",
    )
    parser.add_argument("--checkpoint_experts", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(options)
    common.print_table(COLUMNS, result["rows"], options.markdown)
    print(LEGEND)
    if options.json:
        common.write_json(options.json, result)


if __name__ == "__main__":
    main()
