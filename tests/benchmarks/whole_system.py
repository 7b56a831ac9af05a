"""A whole system with random weights and a batch for it, for benchmarks."""

import re
from pathlib import Path

import torch

from merit_modules.hparams import load_hparams

HPARAMS = Path(__file__).resolve().parents[2] / "hparams"
SAMPLE_RATE_HZ = 16000
#: What replaces the files' SSL encoder; nothing replaces the small one.
ENCODERS = {
    "wavlm_small": None,
    "wavlm_large_random": """
ssl_encoder: !new:merit_modules.ssl.RandomSSLEncoder
    model_type: wavlm
    train_front_end: False
    attention_span_s: !ref <max_duration_s>
    config:
        hidden_size: 1024
        num_hidden_layers: 24
        num_attention_heads: 16
        intermediate_size: 4096
        feat_extract_norm: layer
        do_stable_layer_norm: True
""",
}
#: The paper's sizes and losses, in place of those for minutes of speech.
PAPER = {
    "expert_hidden": 4096,
    "expert_output": 1024,
    "expert_start": "apart",
    "se_hidden": 256,
    "observation_level_db": None,
    "ser_hidden": 1024,
    "load_balance_weight": 0.01,
    "se_si_sdr_weight": 0.0,
}


def add_options(parser):
    """Add what :func:`build` and :func:`batch_of` need to a command line."""
    parser.add_argument("--ssl", choices=ENCODERS, default="wavlm_large_random")
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


def load_at_paper_size(name, ssl, folder, n_layers=None):
    """Load a system's YAML file with the paper's sizes.

    Arguments
    ---------
    name : str
        A file of ``hparams``.
    ssl : str
        One of ``ENCODERS``.
    folder : str
        An empty folder for the file that describes it.
    n_layers : int, optional
        Layers of the SSL encoder, if not all.

    Returns
    -------
    dict
        The keys of the YAML file.
    """
    text = (HPARAMS / f"{name}.yaml").read_text()
    if ENCODERS[ssl]:
        section = r"^(?=ssl_encoder:).*?(?=^# ---- )"
        text = re.sub(section, ENCODERS[ssl], text, count=1, flags=re.M | re.S)
    if n_layers:
        layers = f"num_hidden_layers: {n_layers}"
        text = re.sub(r"num_hidden_layers: \d+", layers, text)
    path = Path(folder) / f"{name}.yaml"
    path.write_text(text)
    changes = {k: v for k, v in PAPER.items() if f"\n{k}:" in text}
    if name == "residual_merit":
        # As wide as a layer, and silent at first.
        del changes["expert_output"], changes["expert_start"]
    return load_hparams(path, {**changes, "output_folder": str(folder)})


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
    hparams = load_at_paper_size(
        "sparse_merit", options.ssl, folder, options.ssl_layers
    )
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
