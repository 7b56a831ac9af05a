"""The parts of the SSL encoder's layers that torch.compile makes faster.

What stands before and after attention becomes a few large operations. Attention
itself stays as it is: compiled for all lengths, its backward pass fails. Frames
of all utterances are given as one row, so that neither a new length nor a new
batch is compiled again.
"""

import torch
from speechbrain.utils.logger import get_logger

from merit_modules.cpu import onednn
from merit_modules.ssl import transformer
from merit_modules.ssl.encoder import SSLEncoder
from merit_modules.ssl.transformer import Pieces

logger = get_logger(__name__)


def compile_(system, backend="inductor", mode=None):
    """Compile parts of the layers of a system's SSL encoders, for a GPU.

    The results are the same up to rounding. Nothing is compiled before the
    first batch. Where it fails, there is a message and all goes on as without.

    Arguments
    ---------
    system : torch.nn.Module
        A system or a part of one, where it is to compute; on a CPU it is left
        as it is, with a message.
    backend : str
        As ``torch.compile`` takes it.
    mode : str, optional
        Likewise.

    Returns
    -------
    bool
        Whether anything is going to be compiled.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> compile_(tiny_system())
    False
    """
    if onednn.suits(next(system.parameters()).device):
        logger.warning(
            "--compile: nothing is compiled on a CPU, where it does not help "
            "(with --compile_module_keys, SpeechBrain does it all the same)"
        )
        return False
    # What fails is to fail in the forward pass, where it can be done without;
    # and gradients are sometimes asked for twice (gradient conflict).
    torch._functorch.config.force_non_lazy_backward_lowering = True
    torch._functorch.config.donated_buffer = False
    compiled = _Compiled(backend, mode)
    pieces = Pieces(compiled.before, compiled.after, compiled.gated_bias)
    for part in system.modules():
        if isinstance(part, SSLEncoder):
            part.pieces = pieces
    return True


class _Compiled:
    """Compiled pieces, or the plain ones where compiling failed."""

    FAILURES = (
        torch._dynamo.exc.TorchDynamoException,
        torch._dynamo.exc.FailOnRecompileLimitHit,
    )

    def __init__(self, backend, mode):
        self._told = self._failed = False
        options = {"dynamic": True, "fullgraph": True}
        options |= {"backend": backend, "mode": mode}
        self._made = {
            piece: torch.compile(piece, **options)
            for piece in transformer.PLAIN
        }

    def _call(self, piece, *args):
        if not self._told:
            logger.info("The first batches compile: some minutes at most.")
            self._told = True
        if not self._failed:
            try:
                return self._made[piece](*args)
            except self.FAILURES as error:
                self._failed = True
                reason = " ".join(str(error).split())[:200]
                logger.warning(f"--compile failed; on without it: {reason}")
        return piece(*args)

    def before(self, layer, frames, norms_first, own):
        shape = frames.shape[:-1]
        found = self._call(
            transformer.before, layer, _rows(frames), norms_first, own
        )
        return tuple(x if x is None else _fresh(x, shape) for x in found)

    def after(self, layer, frames, norms_first, mixed):
        rows = _rows(frames), norms_first, _rows(mixed)
        found = self._call(transformer.after, layer, *rows)
        return _fresh(found, frames.shape[:-1])

    def gated_bias(self, gate, bias, mask):
        # As many utterances as heads are no rule.
        torch._dynamo.mark_static(gate, 2)
        torch._dynamo.mark_static(bias, 0)
        if mask is None:  # rare, and would be compiled apart
            mask = bias.new_zeros(len(gate), 1, 1, bias.shape[-1])
        return self._call(transformer.gated_bias, gate, bias, mask)


class CompilesParts:
    """Lets ``--compile`` of a Brain compile the parts where it helps.

    With ``--compile_module_keys``, whole modules, as SpeechBrain does it.
    """

    def _compile(self):
        if self.compile and self.compile_module_keys is None:
            compile_(self.system, mode=self.compile_mode)
        else:
            super()._compile()


def _rows(frames):
    return _fresh(frames, (-1,))


def _fresh(rows, shape):
    # No view: what views are of would be compiled anew with each shape.
    shape = (*shape, rows.shape[-1])
    return torch.ops.aten._unsafe_view(rows.contiguous(), shape)
