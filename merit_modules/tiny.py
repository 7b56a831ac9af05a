"""The smallest complete system: for examples and tests."""

from merit_modules.heads.se import SEHead
from merit_modules.heads.ser import AttentiveStatsPooling, SERHead
from merit_modules.heads.spectral import LogSpectrum
from merit_modules.moe.experts import ExpertPool
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.system import JointSystem, WaveformNormalizer

#: The smallest SSL configuration that has every kind of layer.
TINY_SSL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def tiny_system(
    model_type="wavlm", top_k=1, gradient="straight_through", **ssl_config
):
    """Build a complete system of a few thousand parameters.

    Arguments
    ---------
    model_type : str
        SSL model type: ``wavlm``, ``hubert`` or ``wav2vec2``.
    top_k : int
        Experts per frame and task, of 3.
    gradient : str
        How routers learn; see :class:`~merit_modules.moe.routers.TopKRouter`.
    **ssl_config : dict
        Changes to the SSL configuration.

    Returns
    -------
    JointSystem
        The system, in evaluation mode, with statistics 0 and 1.

    Example
    -------
    >>> sum(p.numel() for p in tiny_system().parameters()) < 100_000
    True
    """
    ssl_encoder = RandomSSLEncoder(model_type, {**TINY_SSL, **ssl_config})
    layer_mix = LayerNormConcat(ssl_encoder.n_layer_reps, ssl_encoder.dim)
    size = layer_mix.output_size
    routers = {
        task: TopKRouter(size, 3, top_k=top_k, gradient=gradient)
        for task in ("se", "ser")
    }
    experts = ExpertPool(3, size, hidden_size=32, output_size=12)
    system = JointSystem(
        WaveformNormalizer(),
        ssl_encoder,
        ExpertMixture(layer_mix, experts, routers),
        SEHead(LogSpectrum(), feature_size=12, hidden_size=16),
        SERHead(AttentiveStatsPooling(12), n_classes=4, hidden_size=16),
    )
    system.normalizer.set_statistics(mean=0.0, std=1.0)
    return system.eval()
