"""For inference: the layer norms' weights become part of what follows them."""

import torch

from merit_modules.experts import ExpertPool
from merit_modules.layer_mix import LayerNormConcat
from merit_modules.mixture import ExpertMixture


def can_fold_norms(part):
    """Tell whether a mixture's norms can be folded.

    Arguments
    ---------
    part : torch.nn.Module
        A mixture, or a system that has one.

    Returns
    -------
    bool
        Whether feed-forward experts and routers are all that sees the
        concatenation of the normed layers, and their weights are floating
        point; False where it has been done.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> can_fold_norms(tiny_system())
    True
    """
    mixture = getattr(part, "mixture", part)
    return (
        isinstance(mixture, ExpertMixture)
        and isinstance(mixture.layer_mix, LayerNormConcat)
        and mixture.layer_mix.affine
        and isinstance(mixture.experts, ExpertPool)
        and mixture.skips is None
        and all(type(x) is torch.nn.Linear for x in _linears(mixture))
    )


@torch.no_grad()
def fold_norms_(part):
    """Fold the weights and biases of the layer norms into experts and routers.

    ``W (g * x + b) + c`` is ``(W * g) x + (W b + c)``: the result is the same
    up to rounding, and norming a layer is then a pass over its frames with
    nothing to multiply or add. Done in place and for inference only; training
    goes on from weights that were not folded.

    Arguments
    ---------
    part : torch.nn.Module
        A mixture, or a system that has one.

    Returns
    -------
    bool
        Whether anything was done; see :func:`can_fold_norms`.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(1, 8000)
    >>> before = system(wavs).logits
    >>> fold_norms_(system), fold_norms_(system)
    (True, False)
    >>> torch.allclose(system(wavs).logits, before, atol=1e-5)
    True
    """
    if not can_fold_norms(part):
        return False
    mixture = getattr(part, "mixture", part)
    mix = mixture.layer_mix
    weight, bias = mix.weight.flatten(), mix.bias.flatten()
    for linear in _linears(mixture):
        linear.bias += linear.weight @ bias
        linear.weight *= weight
    mix.weight.fill_(1.0)
    mix.bias.zero_()
    mix.affine = False
    return True


def _linears(mixture):
    yield from (expert[0] for expert in mixture.experts)
    yield from (router.linear for router in mixture.routers.values())
