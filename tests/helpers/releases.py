"""Releases in the authors' layout, made by hand at any size."""

import pickle

import torch


def wavlm_tensors(
    width=12,
    layers=2,
    heads=3,
    ffn=20,
    conv=(6, 10),
    base_style=False,
    weight_g=False,
    seed=0,
):
    """State dict of a WavLM in the original naming; conv: first, others."""
    make = _Maker(seed)
    state = {"mask_emb": make(width)}
    front_width = conv[1]
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        name = f"feature_extractor.conv_layers.{i}"
        fan_in = 1 if i == 0 else conv[min(i - 1, 1)]
        out = conv[min(i, 1)]
        state[f"{name}.0.weight"] = make(out, fan_in, kernel)
        if not base_style:
            state |= make.norm(f"{name}.2.1", out)
        elif i == 0:
            state |= make.norm(f"{name}.2", out)
    if front_width != width:
        state |= make.linear("post_extract_proj", width, front_width)
    pos = "encoder.pos_conv.0"
    new = [f"parametrizations.weight.original{i}" for i in range(2)]
    names = ["weight_g", "weight_v"] if weight_g else new
    state[f"{pos}.bias"] = make(width)
    state[f"{pos}.{names[0]}"] = make(1, 1, 8).abs() + 0.1
    state[f"{pos}.{names[1]}"] = make(width, width // 2, 8)
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        state[f"{layer}.self_attn.grep_a"] = make(1, heads, 1, 1)
        if i == 0:
            bias = f"{layer}.self_attn.relative_attention_bias.weight"
            state[bias] = make(16, heads)
        for name in ("k", "v", "q", "out"):
            state |= make.linear(f"{layer}.self_attn.{name}_proj", width, width)
        state |= make.linear(
            f"{layer}.self_attn.grep_linear", 8, width // heads
        )
        state |= make.norm(f"{layer}.self_attn_layer_norm", width)
        state |= make.linear(f"{layer}.fc1", ffn, width)
        state |= make.linear(f"{layer}.fc2", width, ffn)
        state |= make.norm(f"{layer}.final_layer_norm", width)
    state |= make.norm("encoder.layer_norm", width)
    return state | make.norm("layer_norm", front_width)


def wavlm_cfg(width=12, layers=2, conv=(6, 10), base_style=False):
    """The ``cfg`` that goes with :func:`wavlm_tensors`."""
    first, others = conv
    return {
        "extractor_mode": "default" if base_style else "layer_norm",
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "layer_norm_first": not base_style,
        "conv_feature_layers": f"[({first},10,5)] + [({others},3,2)] * 4 + "
        f"[({others},2,2)] * 2",
        "conv_bias": False,
        "relative_position_embedding": True,
        "num_buckets": 16,
        "max_distance": 40,
        "gru_rel_pos": True,
        "normalize": not base_style,
    }


def mmoe_tensors(width=12, layers=2, experts=4, hidden=9, out=7, seed=1):
    """State dict of experts and routers on the concatenation."""
    make = _Maker(seed)
    state = {}
    for i in range(layers + 1):
        state |= make.norm(f"layer_norms.{i}", width)
    for i in range(experts):
        name = f"experts.{i}"
        state |= make.linear(f"{name}.fc1", hidden, width * (layers + 1))
        state |= make.linear(f"{name}.fc2", out, hidden)
    for i in range(2):
        state |= make.linear(f"gates.{i}.fc", experts, width * (layers + 1))
    return state


def head_tensors(size=7, classes=2, hidden=5, bins=161, blstm=6, seed=2):
    """State dicts of pooling, classifier and SE head."""
    make = _Maker(seed)
    pool = make.linear("sap_linear", size, size)
    pool["attention"] = make(size, 1)
    ser = make.linear("fc.0.0", hidden, 2 * size)
    ser |= make.norm("fc.0.1", hidden)
    ser |= make.linear("out.0", classes, hidden)
    se = {"weights": make(3)} | make.linear("lstm_enc.0", blstm, bins + size)
    for end in ("l0", "l0_reverse", "l1", "l1_reverse"):
        fan_in = blstm if "l0" in end else 2 * blstm
        name = "lstm_enc.1.blstm"
        se[f"{name}.weight_ih_{end}"] = make(4 * blstm, fan_in)
        se[f"{name}.weight_hh_{end}"] = make(4 * blstm, blstm)
        se[f"{name}.bias_ih_{end}"] = make(4 * blstm)
        se[f"{name}.bias_hh_{end}"] = make(4 * blstm)
    return pool, ser, se | make.linear("lstm_enc.2", bins, blstm)


def write_model(folder, ssl, mmoe, heads, statistics=(0.01, 0.2)):
    """Write a trained model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    states = dict(
        zip(("ssl", "mmoe", "pool", "ser", "se"), (ssl, mmoe, *heads))
    )
    for part, state in states.items():
        content = {"model": state, "optimizer": {"state": {}}}
        torch.save(content, folder / f"final_{part}.pt")
    (folder / "train_norm_stat.pkl").write_bytes(pickle.dumps(statistics))
    return folder


def write_pretrained(folder, ssl, heads, cfg=None):
    """Write a folder of pre-trained parts."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model": ssl} | ({} if cfg is None else {"cfg": cfg})
    torch.save(content, folder / "WavLM-Large.pt")
    pool, ser, se = heads
    torch.save(pool, folder / "pretrained_pool.pt")
    torch.save(ser, folder / "pretrained_ser.pt")
    prefixed = {f"model_SE.{name}": tensor for name, tensor in se.items()}
    torch.save({"model": prefixed}, folder / "pretrained_se.pth.tar")
    return folder


def edit(path, change):
    """Change the state dict in a file of a model."""
    content = torch.load(path, weights_only=True)
    change(content["model"])
    torch.save(content, path)


class _Maker:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape):
        return 0.3 * torch.randn(*shape, generator=self.generator)

    def linear(self, name, n_out, n_in):
        return {
            f"{name}.weight": self(n_out, n_in),
            f"{name}.bias": self(n_out),
        }

    def norm(self, name, size):
        return {f"{name}.weight": 1 + self(size), f"{name}.bias": self(size)}
