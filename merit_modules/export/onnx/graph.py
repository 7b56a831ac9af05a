"""A system as a graph for one utterance: no padding, no complex numbers.

The graph calls the modules of the system itself wherever they can be traced.
Only what cannot be is arranged here in another way: the STFT, the BLSTM, and
the order in which experts are run.
"""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from merit_modules.cpu.int8 import Int8Linear
from merit_modules.cpu.prepacked import Prepacked
from merit_modules.errors import InputError
from merit_modules.export.onnx.blstm import ExportBLSTM
from merit_modules.export.onnx.spectrum import (
    EPS,
    SpectrumProducts,
    magnitude,
    with_noisy_phase,
)
from merit_modules.heads.spectral import observation_share
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.system import STD_EPS, CascadeSystem, JointSystem


def dispatch(features, experts, decisions):
    """Run every expert on the frames that some task sent to it.

    As ``moe.mixture.dispatch``, but the numbers of frames stay
    part of the graph: an expert without any computes nothing.

    Arguments
    ---------
    features : torch.Tensor
        Features of T frames (T, L * D).
    experts : ExpertPool or LayerMixingPool
        The E experts.
    decisions : sequence of RoutingDecision
        One per task.

    Returns
    -------
    list of torch.Tensor
        One result (T, R) per task.

    Example
    -------
    >>> from merit_modules.moe import mixture
    >>> from merit_modules.moe.experts import ExpertPool
    >>> from merit_modules.moe.routers import TopKRouter
    >>> x, pool = torch.rand(5, 8), ExpertPool(3, 8, 16, 4)
    >>> decisions = [TopKRouter(8, 3)(x), TopKRouter(8, 3, top_k=2)(x)]
    >>> ours = dispatch(x, pool, decisions)
    >>> theirs = mixture.dispatch(x, pool, decisions)
    >>> [torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs)]
    [True, True]
    """
    n_experts = len(experts)
    numbers = torch.arange(n_experts)[:, None, None]
    index = torch.cat([decision.expert_index for decision in decisions], dim=1)
    sent = (index == numbers).any(dim=-1)  # (E, T)
    everywhere = any(d.expert_index.shape[1] == n_experts for d in decisions)
    results = torch.cat(
        [
            expert(
                features
                if everywhere
                else features.index_select(0, sent[number].nonzero()[:, 0])
            )
            for number, expert in enumerate(experts)
        ]
    )
    # Where a pair's result lies: pairs in the order of the experts.
    slot = sent.flatten().long().cumsum(0).view_as(sent) - 1
    return [_combine(results, slot, decision) for decision in decisions]


def _combine(results, slot, decision):
    output = None
    for choice in range(decision.expert_index.shape[1]):
        index = decision.expert_index[:, choice]
        part = results.index_select(0, slot.gather(0, index[None])[0])
        if not decision.unit:
            part = part * decision.weights[:, choice, None]
        output = part if output is None else output + part
    return output


def frozen_copy(system):
    """Copy a system for export; the weights themselves are not copied.

    Parametrisations, such as the weight norm of the position convolution,
    give way to the weights that they compute.

    Arguments
    ---------
    system : torch.nn.Module
        The system; it is left as it is.

    Returns
    -------
    torch.nn.Module
        The copy, in evaluation mode and without gradients.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(1, 800)
    >>> copied = frozen_copy(system)
    >>> any(map(parametrize.is_parametrized, copied.modules()))
    False
    >>> torch.allclose(copied(wavs).logits, system(wavs).logits, atol=1e-6)
    True
    """
    # What deepcopy finds among its copies it takes for copied.
    copies = {id(x): x.detach() for x in system.buffers()}
    for weight in system.parameters():
        copies[id(weight)] = _constant(weight)
    copied = copy.deepcopy(system, copies)
    for module in copied.modules():
        if parametrize.is_parametrized(module):
            _settle(module)
    return copied.float().cpu().eval()


def _constant(weight):
    return nn.Parameter(weight.detach(), requires_grad=False)


def _settle(module):
    # torch's own removal takes the weight out of the class, which the
    # original shares.
    names = list(module.parametrizations)
    weights = {name: _constant(getattr(module, name)) for name in names}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, weight)


class SystemGraph(nn.Module):
    """Tasks of one system, for one utterance.

    Arguments
    ---------
    system : JointSystem
        From :func:`frozen_copy`.
    tasks : sequence of str
        What to compute.

    Raises
    ------
    InputError
        If the normaliser has no statistics, or the SSL encoder has batch norm
        before its position convolution.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> graph = SystemGraph(frozen_copy(tiny_system()), ["ser"])
    >>> {name: tuple(x.shape) for name, x in graph(torch.randn(1, 800)).items()}
    {'logits': (1, 4), 'expert_ser': (1, 2)}
    """

    def __init__(self, system, tasks):
        super().__init__()
        self.system = system
        self.tasks = list(tasks)
        normalizer = system.normalizer
        if not normalizer.is_fitted:
            raise InputError(
                "export: the normaliser has no statistics: expected a system "
                "that was trained or loaded"
            )
        encoder = system.ssl_encoder
        if encoder.model.config.to_dict().get("conv_pos_batch_norm"):
            raise InputError(
                "export: expected an SSL encoder without conv_pos_batch_norm"
            )
        encoder.fast = True  # the way that can be traced
        self.register_buffer("mean", normalizer.mean)
        self.register_buffer("scale", normalizer.std + STD_EPS)
        if "se" in tasks:
            self.spectrum = SpectrumProducts(system.se_head.spectrum)
            self.blstm = ExportBLSTM(system.se_head.blstm)

    def forward(self, wav):
        """Run the tasks.

        Arguments
        ---------
        wav : torch.Tensor
            Waveform (1, N).

        Returns
        -------
        dict
            ``enhanced`` (1, N), ``logits`` (1, C), and per task with a router
            ``expert_<task>`` (1, T), the best expert of each frame.
        """
        wav = (wav - self.mean) / self.scale
        features, routing = self._features(wav)
        outputs = {}
        if "se" in self.tasks:
            enhanced = self._enhance(features["se"], wav)
            outputs["enhanced"] = enhanced * self.scale + self.mean
        if "ser" in self.tasks:
            frames = features["ser"]
            outputs["logits"] = self.system.ser_head(frames)
        for task, decision in routing.items():
            outputs[f"expert_{task}"] = decision.expert_index[None, :, 0]
        return outputs

    def _features(self, wav):
        layer_reps = tuple(self.system.ssl_encoder.layers(wav).reps)
        mixture = self.system.mixture
        if not isinstance(mixture, ExpertMixture):
            mixes = {task: mixture.layer_mixes[task] for task in self.tasks}
            mixed = {t: mix.rows(layer_reps, None) for t, mix in mixes.items()}
            return {t: x.unsqueeze(0) for t, x in mixed.items()}, {}
        features = mixture.layer_mix.rows(layer_reps, None)
        routing = {t: mixture.routers[t](features) for t in self.tasks}
        results = dispatch(features, mixture.experts, list(routing.values()))
        results = dict(zip(self.tasks, results))
        if mixture.skips is not None:
            for task in self.tasks:
                results[task] = results[task] + mixture.skips[task](features)
        return {t: x.unsqueeze(0) for t, x in results.items()}, routing

    def _enhance(self, features, wav):
        head = self.system.se_head
        real, imag = self.spectrum(wav)
        noisy = torch.log1p(magnitude(real, imag) + EPS)
        n_frames = torch.full((1,), features.shape[1])
        features = head._to_stft_rate(features, n_frames, real.shape[-1])
        hidden = torch.cat([noisy.transpose(1, 2), features], dim=-1)
        hidden = self.blstm(head.input_layer(hidden))
        forward, backward = hidden.chunk(2, dim=-1)
        mask = torch.sigmoid(head.output_layer(forward + backward))
        parts = with_noisy_phase(mask.transpose(1, 2) * noisy, real, imag)
        if head.observation_level_db is not None:
            parts = self._with_observation(parts, (real, imag))
        return self.spectrum.inverse(*parts, wav.shape[1])

    def _with_observation(self, parts, noisy):
        removed = [x - y for x, y in zip(noisy, parts)]
        share = observation_share(
            magnitude(*noisy).square(),
            magnitude(*removed).square(),
            self.system.se_head.observation_level_db,
        )
        return [y + share * r for y, r in zip(parts, removed)]


class CascadeGraph(nn.Module):
    """A SER system behind a SE system, for one utterance.

    Arguments
    ---------
    cascade : CascadeSystem
        From :func:`frozen_copy`, with a front end.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> cascade = CascadeSystem(tiny_system(), front_end=tiny_system())
    >>> graph = CascadeGraph(frozen_copy(cascade))
    >>> list(graph(torch.randn(1, 800)))
    ['enhanced', 'logits', 'expert_ser']
    """

    def __init__(self, cascade):
        super().__init__()
        self.front_end = SystemGraph(cascade.front_end, ["se"])
        self.ser_system = SystemGraph(cascade.ser_system, ["ser"])
        self.tasks = ["se", "ser"]

    def forward(self, wav):
        """Enhance and classify; see :class:`SystemGraph`."""
        enhanced = self.front_end(wav)["enhanced"]
        return {"enhanced": enhanced, **self.ser_system(enhanced)}


def graph_of(system):
    """Build the graph of any system.

    Arguments
    ---------
    system : JointSystem or CascadeSystem
        The system; it is left as it is.

    Returns
    -------
    SystemGraph or CascadeGraph
        Its graph, which shares its weights.

    Raises
    ------
    InputError
        If the system is of another kind or not complete.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> graph_of(tiny_system()).tasks
    ['se', 'ser']
    """
    if any(isinstance(part, Int8Linear) for part in system.modules()):
        raise InputError(
            "export: expected fp32 weights, got a system with int8 layers: "
            "export the one that it was made of, with int8=True"
        )
    if any(isinstance(part, Prepacked) for part in system.modules()):
        raise InputError(
            "export: got a prepacked system: expected one of load_folder(), or "
            "of from_hparams(..., prepack=False)"
        )
    if isinstance(system, CascadeSystem):
        if system.front_end is None:
            raise InputError(
                "export: the cascade has no front end: expected a system that "
                "was trained or loaded"
            )
        return CascadeGraph(frozen_copy(system)).eval()
    if not isinstance(system, JointSystem):
        raise InputError(
            "export: expected a JointSystem or a CascadeSystem, got "
            f"{type(system).__name__}"
        )
    return SystemGraph(frozen_copy(system), system.tasks).eval()
