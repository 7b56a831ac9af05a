"""A whole system with random weights and a batch for it, for benchmarks."""

import json
import re
from pathlib import Path

import torch

from merit_modules.hparams import load_hparams

HPARAMS = Path(__file__).resolve().parents[2] / "hparams"
SAMPLE_RATE_HZ = 16000


def add_options(parser):
    """Add what :func:`build` and :func:`batch_of` need to a command line."""
    encoders = sorted(p.stem for p in (HPARAMS / "ssl").glob("*.yaml"))
    parser.add_argument("--ssl", choices=encoders, default="wavlm_large_random")
    parser.add_argument(
        "--ssl_layers", type=int, help="layers of the SSL encoder, if not all"
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="every utterance but the first is shorter: down to half of it",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's own by default")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true")


def build(options, folder):
    """Build sparse MERIT from its YAML files, in evaluation mode.

    Arguments
    ---------
    options : argparse.Namespace
        ``ssl``, ``ssl_layers`` and ``device``.
    folder : str
        An empty folder for the files that describe it.

    Returns
    -------
    dict
        The keys of the YAML files; ``system`` and ``loss`` among them.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    text = (HPARAMS / "ssl" / f"{options.ssl}.yaml").read_text()
    if options.ssl_layers:
        layers = f"num_hidden_layers: {options.ssl_layers}"
        text = re.sub(r"num_hidden_layers: \d+", layers, text)
    ssl, path = Path(folder) / "ssl.yaml", Path(folder) / "system.yaml"
    ssl.write_text(text)
    parts = ("base", "corpora/miniemo", "systems/sparse_merit")
    files = [str(HPARAMS / f"{part}.yaml") for part in parts]
    path.write_text(json.dumps({"include": [*files, str(ssl)]}))
    changes = {"output_folder": str(folder)}
    if "front_end_norm" in text:
        changes["front_end_norm"] = "layer"  # as WavLM-Large has it
    hparams, _ = load_hparams(path, changes)
    system = hparams["system"].to(options.device).eval()
    system.normalizer.set_statistics(mean=0.0, std=1.0)
    return hparams


def batch_of(n_wavs, seconds, padded=False, device="cpu"):
    """Make a batch of noise.

    Arguments
    ---------
    n_wavs : int
        Number of utterances B.
    seconds : float
        Length of the longest in seconds.
    padded : bool
        Whether the others are shorter.
    device : str
        Where it is to be.

    Returns
    -------
    tuple of torch.Tensor
        Waveforms (B, N), zero in padding, and relative lengths (B,).
    """
    generator = torch.Generator().manual_seed(0)
    n_samples = round(seconds * SAMPLE_RATE_HZ)
    wavs = 0.1 * torch.randn(n_wavs, n_samples, generator=generator)
    wav_lens = torch.ones(n_wavs)
    if padded:
        wav_lens = torch.linspace(1.0, 0.5, n_wavs)
        for wav, length in zip(wavs, wav_lens):
            wav[round(length.item() * n_samples) :] = 0.0
    return wavs.to(device), wav_lens.to(device)


@torch.no_grad()
def balance(system, wavs, wav_lens):
    """Make the random routers send frames to all experts, as trained ones."""
    for task, decision in system(wavs, wav_lens).mixture.routing.items():
        bias = system.mixture.routers[task].linear.bias
        bias -= decision.logits.mean(dim=0)
