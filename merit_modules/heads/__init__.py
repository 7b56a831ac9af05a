"""Features to an enhanced spectrum and to an emotion."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "se": "Enhancement PaddedBLSTM SEHead SpectralMask",
        "ser": "AttentiveStatsPooling MeanPooling SERHead",
        "spectral": "LogSpectrum log1p_magnitude observation_share "
        "with_noisy_phase",
    },
)
