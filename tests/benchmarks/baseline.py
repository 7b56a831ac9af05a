"""The published system done as the released code does it, to compare with.

Written from REFERENCE.md on plain classes of PyTorch and transformers: the
whole padded batch goes through everything, all normed layers and their
concatenation are kept, every expert computes every frame and a mask picks.
All weights are those of one of this project's systems: shared, not copied.
"""

import contextlib
import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import WavLMModel

from merit_modules.lengths import absolute_lengths, valid_mask

EPS = 1e-6


class BaselineOutput(NamedTuple):
    """What the baseline made of a batch; None for a task not asked for.

    Arguments
    ---------
    logits : torch.Tensor or None
        Class logits (B, C).
    log1p : torch.Tensor or None
        Enhanced log1p feature (B, F, S).
    wavs : torch.Tensor or None
        Enhanced waveforms (B, N).
    expert_index : dict
        Task name to the expert of each frame (B, T), padding included.
    """

    logits: torch.Tensor | None
    log1p: torch.Tensor | None
    wavs: torch.Tensor | None
    expert_index: dict


class Baseline(nn.Module):
    """The baseline on the weights of a system, convolutions frozen.

    Arguments
    ---------
    system : JointSystem
        Sparse MERIT on a WavLM, with both heads.
    """

    def __init__(self, system):
        super().__init__()
        self.system = [system]  # not a part: its weights are shared
        config = copy.deepcopy(system.ssl_encoder.model.config)
        config.apply_spec_augment = False  # nor does the released code
        with torch.device("meta"):
            self.ssl = WavLMModel(config)
            lstm = system.se_head.blstm
            self.blstm = nn.LSTM(
                lstm.input_size,
                lstm.hidden_size,
                lstm.num_layers,
                bidirectional=True,
                batch_first=True,
            )
        share_weights(self.ssl, system.ssl_encoder.model)
        share_weights(self.blstm, lstm)
        # As transformers freezes it: no graph through the convolutions.
        self.ssl.freeze_feature_encoder()
        self.train(system.training)

    def forward(self, noisy_wavs, wav_lens, tasks=("se", "ser")):
        """Run some or all tasks.

        Arguments
        ---------
        noisy_wavs : torch.Tensor
            Waveforms (B, N).
        wav_lens : torch.Tensor
            Relative lengths (B,).
        tasks : sequence of str
            ``se``, ``ser`` or both.

        Returns
        -------
        BaselineOutput
            Logits, enhanced feature and waveforms, experts.
        """
        (system,) = self.system
        n_samples = absolute_lengths(wav_lens, noisy_wavs.shape[1]).to(
            wav_lens.device
        )
        samples = valid_mask(n_samples, noisy_wavs.shape[1])
        wavs = system.normalizer(noisy_wavs) * samples
        layer_reps = self._layer_reps(wavs, samples)
        features, experts = self._mixture(layer_reps, tasks)
        logits = log1p = enhanced = None
        if "ser" in tasks:
            n_frames = self.ssl._get_feat_extract_output_lengths(n_samples)
            logits = self._classify(features["ser"], n_frames)
        if "se" in tasks:
            stft = self.stft(wavs)
            log1p = self._enhance(features["se"], stft)
            if not self.training:  # no loss needs them
                enhanced = self._to_wavs(log1p, stft, wavs.shape[1])
        return BaselineOutput(logits, log1p, enhanced, experts)

    def _layer_reps(self, wavs, samples):
        # Hooks: the last representation is taken before the final norm.
        found, layers = [], self.ssl.encoder.layers
        with contextlib.ExitStack() as stack:
            first = layers[0].register_forward_pre_hook(
                lambda _, args, kwargs: found.append(
                    args[0] if args else kwargs["hidden_states"]
                ),
                with_kwargs=True,
            )
            stack.callback(first.remove)
            for layer in layers:
                hook = layer.register_forward_hook(
                    lambda _, args, out: found.append(out[0])
                )
                stack.callback(hook.remove)
            mask = None if samples.all() else samples.long()
            self.ssl(wavs, attention_mask=mask)
        return found

    def _mixture(self, layer_reps, tasks):
        mixture = self.system[0].mixture
        mix = mixture.layer_mix
        normed = [
            F.layer_norm(rep, (mix.dim,), weight, bias, mix.eps)
            for rep, weight, bias in zip(layer_reps, mix.weight, mix.bias)
        ]
        features = torch.cat(normed, dim=-1)
        everything = torch.stack([e(features) for e in mixture.experts], dim=2)
        outputs, experts = {}, {}
        for task in tasks:
            linear = mixture.routers[task].linear
            probs = linear(features).softmax(dim=-1)
            experts[task] = probs.argmax(dim=-1)
            mask = F.one_hot(experts[task], len(mixture.experts))
            outputs[task] = (everything * mask.unsqueeze(-1)).sum(dim=2)
        return outputs, experts

    def _classify(self, frames, n_frames):
        head = self.system[0].ser_head
        pooling = head.pooling
        scores = torch.tanh(pooling.projection(frames)) @ pooling.attention
        padding = ~valid_mask(n_frames, frames.shape[1])
        weights = scores.masked_fill(padding, -torch.inf).softmax(dim=1)
        weights = weights.unsqueeze(-1)
        mean = (weights * frames).sum(dim=1)
        variance = (weights * frames.square()).sum(dim=1) - mean.square()
        std = variance.clamp_min(1e-5).sqrt()
        return head.classifier(torch.cat([mean, std], dim=-1))

    def stft(self, wavs):
        """Transform waveforms (B, N), whole rows of them."""
        spectrum = self.system[0].se_head.spectrum
        return torch.stft(
            wavs,
            spectrum.n_fft,
            spectrum.hop_length,
            window=spectrum.window,
            return_complex=True,
        )

    def _enhance(self, features, stft):
        head = self.system[0].se_head
        noisy = log1p_magnitude(stft)
        n_stft = noisy.shape[-1]
        features = features.repeat_interleave(2, dim=1)[:, :n_stft]
        last = features[:, -1:].expand(-1, n_stft - features.shape[1], -1)
        features = torch.cat([features, last], dim=1)
        hidden = torch.cat([noisy.transpose(1, 2), features], dim=-1)
        hidden, _ = self.blstm(head.input_layer(hidden))
        forward, backward = hidden.chunk(2, dim=-1)
        mask = torch.sigmoid(head.output_layer(forward + backward))
        return mask.transpose(1, 2) * noisy

    def _to_wavs(self, log1p, stft, n_samples):
        (system,) = self.system
        spectrum = system.se_head.spectrum
        wavs = torch.istft(
            (torch.expm1(log1p) - EPS) * stft / (stft.abs() + EPS),
            spectrum.n_fft,
            spectrum.hop_length,
            window=spectrum.window,
            length=n_samples,
        )
        return system.normalizer.inverse(wavs)

    def losses(self, noisy_wavs, clean_wavs, wav_lens, labels):
        """Compute the two losses of the paper.

        Arguments
        ---------
        noisy_wavs, clean_wavs : torch.Tensor
            Waveforms (B, N).
        wav_lens : torch.Tensor
            Relative lengths (B,).
        labels : torch.Tensor
            Classes (B,).

        Returns
        -------
        dict
            ``ser_ce`` and ``se_l1``, scalars.
        """
        output = self(noisy_wavs, wav_lens)
        clean = self.stft(self.system[0].normalizer(clean_wavs))
        return {
            "ser_ce": F.cross_entropy(output.logits, labels),
            "se_l1": F.l1_loss(output.log1p, log1p_magnitude(clean)),
        }


def log1p_magnitude(stft):
    """Compute ``log1p(|X| + 1e-6)``."""
    return torch.log1p(stft.abs() + EPS)


def share_weights(plain, module):
    """Give a module on the meta device the very parameters of another."""
    parameters = list(module.parameters())
    learn = [parameter.requires_grad for parameter in parameters]
    plain.load_state_dict(module.state_dict(keep_vars=True), assign=True)
    for parameter, flag in zip(parameters, learn):
        parameter.requires_grad_(flag)
    ours = {id(parameter) for parameter in parameters}
    if not all(id(parameter) in ours for parameter in plain.parameters()):
        raise RuntimeError("expected the same parameters, found copies")


@torch.no_grad()
def check_equal(system, wavs, wav_lens, baseline=None, atol=1e-4):
    """Make sure that a system gives what the baseline gives.

    Decisions and logits are compared for all utterances; enhanced speech for
    those that fill the row, as the released code lets padding into the others.

    Arguments
    ---------
    system : JointSystem
        The system, in evaluation mode.
    wavs : torch.Tensor
        Waveforms (B, N).
    wav_lens : torch.Tensor
        Relative lengths (B,).
    baseline : Baseline, optional
        One with the same weights; made of the system by default.
    atol : float
        Largest difference of an output.

    Returns
    -------
    float
        The largest difference that there was.

    Raises
    ------
    RuntimeError
        If anything differs more, or a frame has another expert.
    """
    baseline = Baseline(system) if baseline is None else baseline
    theirs, ours = baseline(wavs, wav_lens), system(wavs, wav_lens)
    enhanced = system.enhanced_wavs(ours, wavs.shape[1])
    for task, index in theirs.expert_index.items():
        valid, mine = ours.mixture.valid, ours.mixture.expert_map(task)
        n_wrong = int((mine[valid] != index[valid]).sum())
        if n_wrong:
            raise RuntimeError(f"{task}: other experts on {n_wrong} frames")
    full = wav_lens == 1.0
    largest = 0.0
    for name, a, b in (
        ("logits", ours.logits, theirs.logits),
        ("log1p", ours.enhancement.log1p[full], theirs.log1p[full]),
        ("waveforms", enhanced[full], theirs.wavs[full]),
    ):
        difference = (a - b).abs().max().item()
        if not difference <= atol:
            raise RuntimeError(f"{name}: differ by {difference:.1e}")
        largest = max(largest, difference)
    return largest
