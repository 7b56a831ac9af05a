"""The operations that a batch needs at least, bare: gpu.py's floor."""

import contextlib

import torch
from torch import nn


class Floor:
    """Products, attention, convolutions, LSTM and AdamW of a batch.

    Of real frames alone, except in attention and LSTM, in the precision of the
    forms; norms, sums, copies and whatever else joins them are free.

    Arguments
    ---------
    system : JointSystem
        Sparse MERIT, whose sizes count.
    wavs : torch.Tensor
        Waveforms (B, N).
    wav_lens : torch.Tensor
        Relative lengths (B,), on the CPU.
    tasks : sequence of str
        What is computed.
    dtype : torch.dtype
        Precision of the products.
    optimizer : torch.optim.Optimizer, optional
        For a training step; for inference none.
    """

    def __init__(self, system, wavs, wav_lens, tasks, dtype, optimizer=None):
        self.training = optimizer is not None
        self.optimizer = optimizer
        self.made = {"device": wavs.device, "dtype": dtype}
        self.parts, self._asked = [], None
        with torch.no_grad():
            routing = system.encode(wavs, wav_lens, tasks).mixture.routing
        n_pairs = [
            sum((d.expert_index == i).any(1).long() for d in routing.values())
            for i in range(len(system.mixture.experts))
        ]
        n_pairs = [int(n.clamp_max(1).sum()) for n in n_pairs]
        encoder = system.ssl_encoder
        n_samples = (wav_lens * wavs.shape[1]).round().long()
        n_frames = encoder.count_frames(n_samples)
        self._encoder(encoder, wavs, n_frames)
        for expert, n in zip(system.mixture.experts, n_pairs):
            self._products(n, expert[0], expert[2])
        if "se" in tasks:
            head = system.se_head
            n_stft = head.spectrum.n_frames(n_samples)
            self._products(
                int(n_stft.sum()), head.input_layer, head.output_layer
            )
            shape = len(wavs), int(n_stft.max()), head.hidden_size
            self._lstm(head.blstm, torch.rand(*shape, **self.made), n_stft)
        if "ser" in tasks:
            pooling = system.ser_head.pooling
            self._products(int(n_frames.sum()), pooling.projection)

    def _encoder(self, encoder, wavs, n_frames):
        model, length = encoder.model, wavs.shape[1]
        for layer in model.feature_extractor.conv_layers:
            conv = layer.conv
            self._convolution(conv, len(wavs), length, learns=False)
            length = (length - conv.kernel_size[0]) // conv.stride[0] + 1
        embed = model.encoder.pos_conv_embed.conv
        self._convolution(embed, len(wavs), length, learns=self.training)
        config, layers = model.config, model.encoder.layers
        n_rows, width = int(n_frames.sum()), config.hidden_size
        for layer in layers:
            fed = layer.feed_forward
            self._product(n_rows, width, 3 * width)
            self._products(n_rows, layer.attention.out_proj)
            self._products(n_rows, fed.intermediate_dense, fed.output_dense)
            n_heads = config.num_attention_heads
            self._attention(len(wavs), n_heads, length, width // n_heads)

    def _products(self, rows, *linears):
        for linear in linears:
            self._product(rows, linear.in_features, linear.out_features)

    def _product(self, rows, inner, cols):
        a, b, c = (
            torch.rand(size, **self.made)
            for size in ((rows, inner), (inner, cols), (rows, cols))
        )

        def form():
            torch.mm(a, b)
            if self.training:
                torch.mm(c, b.T), torch.mm(a.T, c)

        self.parts.append(form)

    def _attention(self, n_wavs, n_heads, n_rows, size):
        width = -(-n_rows // 8) * 8  # as attention wants a bias
        shape = n_wavs, n_heads, width, size
        if self._asked is None:  # one for all layers
            learns = {"requires_grad": self.training, **self.made}
            self._asked = [torch.rand(shape, **learns) for _ in range(3)]
            shape = n_wavs, n_heads, width, width
            self._asked.append(torch.rand(shape, **learns))

        def form():
            *asked, bias = self._asked
            found = nn.functional.scaled_dot_product_attention(
                *asked, attn_mask=bias
            )
            if self.training:
                torch.autograd.grad(found, self._asked, found.detach())

        self.parts.append(form)

    def _convolution(self, conv, n_wavs, length, learns):
        shape = n_wavs, conv.in_channels, length
        x = torch.rand(shape, requires_grad=learns, **self.made)
        weight = conv.weight.detach().to(x.dtype).requires_grad_(learns)

        def form():
            found = nn.functional.conv1d(
                x, weight, None, conv.stride, conv.padding, 1, conv.groups
            )
            if learns:
                torch.autograd.grad(found, (x, weight), found.detach())

        self.parts.append(form)

    def _lstm(self, blstm, frames, n_frames):
        frames.requires_grad_(self.training)
        autocast = contextlib.nullcontext()
        if frames.dtype != torch.float32:
            autocast = torch.autocast(frames.device.type, frames.dtype)

        def form():
            with autocast:
                found = blstm(frames, n_frames=n_frames)
            if self.training:
                weights = [frames, *blstm.parameters()]
                torch.autograd.grad(found, weights, found.detach())

        self.parts.append(form)

    def __call__(self):
        """Do all of it once."""
        with torch.set_grad_enabled(self.training):
            for part in self.parts:
                part()
        if self.training:
            self.optimizer.step()

    def __enter__(self):
        for group in self.optimizer.param_groups if self.training else ():
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        return self

    def __exit__(self, *exc_info):
        if self.training:
            self.optimizer.zero_grad(set_to_none=True)
