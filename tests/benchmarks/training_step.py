"""Compare a training step with that of the baseline.

> python tests/benchmarks/training_step.py

A step: both tasks forward, the losses of hparams/base.yaml, backward, AdamW;
everything is trained but the convolutional front end. The baseline
(baseline.py) has the losses of the paper, no routing loss. Both share their
weights and one optimiser; its learning rate is 0, which costs the same and
keeps the comparison what it is. Losses are compared before anything is timed.

AdamW is timed apart, as PyTorch does it by default and fused, and added to the
time of what comes before it. At full size weights, gradients and AdamW's state
take 10 GiB, the activations of a 4 x 5 s batch some more; --ssl_layers 12 takes
about two thirds.
"""

import argparse
import statistics
import tempfile
from functools import partial

import common
import torch
import whole_system
from baseline import Baseline

#: Heading, key of a row, format.
COLUMNS = (
    ("step", "form", "{}"),
    ("time s", "time_s", "{:.2f}"),
    ("s/s", "s_per_s", "{:.3f}"),
    ("x baseline", "time_ratio", "{:.3f}"),
    ("AdamW s", "optimizer_s", "{:.2f}"),
    ("peak GiB", "peak_gib", "{:.2f}"),
    ("x baseline", "memory_ratio", "{:.3f}"),
)
LEGEND = """\
time s: median seconds per step; s/s: per second of audio; AdamW s: of these
peak: memory above weights: gradients, activations"""


class Forms:
    """The losses of both forms on one batch."""

    def __init__(self, hparams, options):
        self.system, self.loss = hparams["system"], hparams["loss"]
        self.baseline = Baseline(self.system)
        self.noisy, self.wav_lens = whole_system.batch_of(
            options.batch, options.seconds, options.padded, options.device
        )
        self.clean = 0.5 * self.noisy
        self.labels = torch.arange(options.batch, device=options.device) % 4

    def train(self, mode):
        """Set the training mode of both."""
        self.system.train(mode)
        self.baseline.train(mode)
        # As in the released code; its weights are not trained either.
        self.baseline.ssl.feature_extractor.eval()

    def sparse_terms(self):
        """All terms of this project's loss."""
        output = self.system(self.noisy, self.wav_lens)
        return self.loss.terms(self.system, output, self.clean, self.labels)

    def baseline_terms(self):
        """The terms of the paper's loss."""
        return self.baseline.losses(
            self.noisy, self.clean, self.wav_lens, self.labels
        )

    def learn(self, name, optimizer):
        """Compute the gradients of ``baseline`` or ``sparse``."""
        optimizer.zero_grad(set_to_none=True)
        if name == "sparse":
            loss = self.loss(self.sparse_terms())
        else:
            loss = sum(self.baseline_terms().values())
        loss.backward()

    @torch.no_grad()
    def check_equal(self, atol=1e-4):
        """Make sure that both compute the same losses; return the difference.

        With padding that is the SER loss alone: the released code counts
        padded frames in the SE loss.
        """
        self.train(False)
        ours, theirs = self.sparse_terms(), self.baseline_terms()
        names = ["ser_ce"]
        if bool((self.wav_lens == 1.0).all()):
            names.append("se_l1")
        largest = max(abs(ours[n] - theirs[n]).item() for n in names)
        if not largest <= atol:
            raise RuntimeError(f"losses differ by {largest:.1e}")
        self.train(True)
        return largest


def optimize(optimizer, fused):
    """Do AdamW's part of a step."""
    for group in optimizer.param_groups:
        group["fused"] = fused
    optimizer.step()


def time_parts(forms, optimizer, options):
    """Time the parts of a step in turn.

    Returns
    -------
    tuple of dict
        Name of the part to seconds, a list; name of the form to peak bytes.
    """
    parts = {
        name: partial(forms.learn, name, optimizer)
        for name in ("baseline", "sparse")
    }
    peaks = {}
    for name, part in parts.items():
        optimizer.zero_grad(set_to_none=True)
        peaks[name] = common.peak_bytes(part, options.device)
    # There are gradients now, and the optimiser can make its state.
    parts["AdamW"] = partial(optimize, optimizer, False)
    parts["AdamW fused"] = partial(optimize, optimizer, True)
    parts["AdamW"]()
    found = {name: [] for name in parts}
    for _ in range(options.repeats):
        for name, part in parts.items():
            found[name].append(common.seconds_of(part, options.device))
    return found, peaks


def rows_of(found, peaks, audio_s):
    """Put the parts together to steps, a row of the table each."""
    published = [sum(x) for x in zip(found["baseline"], found["AdamW"])]
    rows = []
    for form, adamw in (
        ("baseline", "AdamW"),
        ("sparse", "AdamW"),
        ("sparse", "AdamW fused"),
    ):
        seconds = [sum(x) for x in zip(found[form], found[adamw])]
        median = statistics.median(seconds)
        row = {
            "form": f"{form}, {adamw}",
            "time_s": median,
            "s_per_s": median / audio_s,
            "time_ratio": common.median_ratio(seconds, published),
            "optimizer_s": statistics.median(found[adamw]),
        }
        if all(peaks.values()):
            row["peak_gib"] = peaks[form] / 2**30
            row["memory_ratio"] = peaks[form] / peaks["baseline"]
        rows.append(row)
    return rows


def measure(options):
    """Build the system, compare losses, time steps."""
    with tempfile.TemporaryDirectory() as folder:
        hparams = whole_system.build(options, folder)
    system, device = hparams["system"], options.device
    system.ssl_encoder.train_front_end = False
    system.ssl_encoder.set_frozen(False)
    system.mixture.checkpoint_experts = options.checkpoint_experts
    forms = Forms(hparams, options)
    whole_system.balance(system, forms.noisy, forms.wav_lens)
    difference = forms.check_equal()
    learned = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0)
    found, peaks = time_parts(forms, optimizer, options)
    audio_s = options.seconds * forms.wav_lens.sum().item()
    return {
        "sizes": vars(options),
        "machine": common.machine(device, options.threads),
        "parameters_m": sum(p.numel() for p in learned) / 1e6,
        "largest_difference": difference,
        "seconds": found,
        "rows": rows_of(found, peaks, audio_s),
    }


def main(arguments=None):
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint_experts", action="store_true")
    whole_system.add_options(parser)
    options = parser.parse_args(arguments)
    result = measure(options)
    common.print_table(COLUMNS, result["rows"], options.markdown)
    print(LEGEND)
    print(
        f"{result['parameters_m']:.1f} M parameters are trained; largest "
        f"difference of a loss: {result['largest_difference']:.1e}"
    )
    if options.json:
        common.write_json(options.json, result)


if __name__ == "__main__":
    main()
