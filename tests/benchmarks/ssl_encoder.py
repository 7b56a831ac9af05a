"""Compare the SSL encoder with transformers' own class at full size.

> python tests/benchmarks/ssl_encoder.py --style large
> python tests/benchmarks/ssl_encoder.py --style base --padded

All forms have the same random weights and run in turn within one process, so
that what the machine does meanwhile meets all of them:

transformers  WavLMModel as it comes, all hidden states, an attention mask
plain         this project's encoder with fast=False
fast          the fast path
prepacked     the same with weights arranged for inference (on a CPU)

The floor is what the matrix products of the valid frames would take at the
rate of a plain product (torch.mm) of the feed-forward layers' shape, measured
in turn with the forms. On a CPU, the fast path lets oneDNN multiply, which may
be faster than torch.mm.
"""

import argparse
import copy
import statistics
import sys

import torch
import transformers
from common import (
    interleave,
    machine,
    median_ratio,
    medians,
    peak_bytes,
    print_table,
    write_json,
)

from merit_modules.evaluation.cost import count_macs
from merit_modules.inference.prepack import can_prepack, prepack_
from merit_modules.lengths import absolute_lengths, valid_mask
from merit_modules.ssl.encoder import SSLEncoder

SAMPLE_RATE_HZ = 16000
STYLES = {
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
    "base": {},  # WavLM-Base+: transformers' defaults
    "tiny": {  # to test this file
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [16] * 7,
    },
}
#: Relative lengths of a padded batch: 10, 7.5, 5 and 4 s of 10 s.
PADDED = (1.0, 0.75, 0.5, 0.4)
#: Heading, key of a row, format.
COLUMNS = (
    ("form", "form", "{}"),
    ("s", "median_s", "{:.3f}"),
    ("/ transformers", "time_ratio", "{:.3f}"),
    ("x floor", "floor_ratio", "{:.2f}"),
    ("peak GiB", "peak_gib", "{:.2f}"),
    ("max error", "max_error", "{:.1e}"),
)
SIZES = ("style", "seconds", "batch", "padded", "repeats", "device")


def make_batch(options):
    """Make noise and its relative lengths; zero in padding."""
    generator = torch.Generator().manual_seed(0)
    wav_lens = torch.ones(options.batch)
    if options.padded:
        wav_lens = torch.tensor(PADDED)
    n = round(options.seconds * SAMPLE_RATE_HZ)
    wavs = torch.randn(len(wav_lens), n, generator=generator)
    samples = valid_mask(absolute_lengths(wav_lens, n), n)
    return (wavs * samples).to(options.device), wav_lens.to(options.device)


def make_forms(model, wavs, wav_lens):
    """Give each form as a callable that returns all representations."""
    is_padded = bool((wav_lens < 1).any())
    given = wav_lens if is_padded else None
    samples = valid_mask(
        absolute_lengths(wav_lens, wavs.shape[1]), wavs.shape[1]
    )
    encoders = {
        name: SSLEncoder(model, fast=fast).eval()
        for name, fast in (("plain", False), ("fast", True))
    }

    if can_prepack(encoders["fast"]):
        encoders["prepacked"] = prepack_(copy.deepcopy(encoders["fast"]))

    def as_it_comes():
        mask = samples.long() if is_padded else None
        return model(wavs, mask, output_hidden_states=True).hidden_states

    forms = {"transformers": as_it_comes}
    for name, encoder in encoders.items():
        forms[name] = lambda encoder=encoder: encoder(wavs, given)
    return encoders["fast"], forms


def largest_errors(forms, n_frames):
    """Compare valid frames of all layers with those of the plain path.

    transformers' own class is left out: it norms the last layer of large
    style and, in base style, sees the padding.
    """
    expected = forms["plain"]()
    return {
        name: max(
            (a[i, :count] - b[i, :count]).abs().max().item()
            for a, b in zip(form(), expected, strict=True)
            for i, count in enumerate(n_frames.tolist())
        )
        for name, form in forms.items()
        if name != "transformers"
    }


def needed_macs(encoder, wavs, wav_lens):
    """Count the operations of each utterance alone."""
    n_samples = absolute_lengths(wav_lens, wavs.shape[1])
    return sum(
        count_macs(lambda wav=wav, n=n: encoder(wav[None, :n]))
        for wav, n in zip(wavs, n_samples.tolist())
    )


@torch.no_grad()
def measure(options):
    """Measure all forms and the floor."""
    torch.manual_seed(0)
    config = transformers.WavLMConfig(**STYLES[options.style])
    model = transformers.WavLMModel(config).eval().to(options.device)
    wavs, wav_lens = make_batch(options)
    encoder, forms = make_forms(model, wavs, wav_lens)
    n_frames = encoder.layers(wavs, wav_lens).n_frames
    errors = largest_errors(forms, n_frames)
    n_macs = needed_macs(encoder, wavs, wav_lens)
    shape = int(n_frames.sum()), config.hidden_size, config.intermediate_size
    a = torch.rand(shape[:2], device=options.device)
    b = torch.rand(shape[1:], device=options.device)
    peaks = {
        name: peak_bytes(form, options.device) for name, form in forms.items()
    }
    found = interleave(
        {**forms, "product": lambda: a @ b}, options.repeats, options.device
    )
    rate = 2 * shape[0] * shape[1] * shape[2] / min(found.pop("product"))
    floor_s, typical = 2 * n_macs / rate, medians(found)
    rows = [
        {
            "form": name,
            "seconds": seconds,
            "median_s": typical[name],
            "time_ratio": median_ratio(seconds, found["transformers"]),
            "floor_ratio": statistics.median(seconds) / floor_s,
            "peak_gib": peaks[name] and peaks[name] / 2**30,
            "max_error": errors.get(name),
        }
        for name, seconds in found.items()
    ]
    return {
        "sizes": {key: getattr(options, key) for key in SIZES},
        "machine": machine(options.device, options.threads),
        "needed_gmac": n_macs / 1e9,
        "product_gflop_per_s": rate / 1e9,
        "floor_s": floor_s,
        "rows": rows,
    }


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--style", choices=sorted(STYLES), default="large")
    parser.add_argument("--seconds", type=float, default=10.0)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--batch", type=int, default=1)
    kind.add_argument(
        "--padded",
        action="store_true",
        help="four utterances: 1, 0.75, 0.5 and 0.4 times --seconds",
    )
    parser.add_argument("--threads", type=int, help="default: PyTorch's")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    for key in ("seconds", "batch", "repeats"):
        if getattr(options, key) <= 0:
            parser.error(f"--{key}: expected more than 0")
    return options


def main(arguments):
    """Measure and print a table; write JSON on request."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measure(options)
    print_table(COLUMNS, result["rows"], options.markdown)
    print(
        f"\nfloor: {result['needed_gmac']:.1f} GMAC of valid frames at "
        f"{result['product_gflop_per_s']:.0f} GFLOP/s: "
        f"{result['floor_s']:.3f} s\n"
        "max error: over all layers and valid frames, to the plain path\n"
    )
    for part in ("sizes", "machine"):
        print(", ".join(f"{k} {v}" for k, v in result[part].items()))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main(sys.argv[1:])
