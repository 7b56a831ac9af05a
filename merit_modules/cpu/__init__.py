"""What makes CPUs fast and changes no result beyond rounding."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "int8": "Int8Linear is_quantized quantize_",
    },
)
