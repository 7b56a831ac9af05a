"""The pickled normalisation statistics, read without running a pickle.

A pickle is a program. What the released statistics need of it is little: two
numbers, as Python or numpy write them. Everything else is refused, and the
few callables that numbers need are replaced by stand-ins of this file.
"""

import io
import math
import pickle
import pickletools
import struct
from pathlib import Path

from merit_modules.errors import InputError

MAX_BYTES = 4096  # two numbers take about 130

# numpy's type codes and struct's; extended precision is not among them.
_FORMATS = {
    "f2": "e",
    "f4": "f",
    "f8": "d",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
}

# Opcodes of numbers, texts, tuples, lists, and of a global called with plain
# arguments. Not among them: instances, attributes, extensions, persistent ids.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT "
    "BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE "
    "BINUNICODE8 SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES "
    "BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND "
    "APPENDS GLOBAL STACK_GLOBAL REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE "
    "GET BINGET LONG_BINGET".split()
)


def read_statistics(path):
    """Read mean and standard deviation from a pickled pair of numbers.

    Arguments
    ---------
    path : str or Path
        ``train_norm_stat.pkl``.

    Returns
    -------
    mean : float
        Mean of all samples.
    std : float
        Standard deviation of all samples, above 0.

    Raises
    ------
    InputError
        If the file holds anything but two such numbers. Nothing that it asks
        for is run.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train_norm_stat.pkl"
    >>> _ = path.write_bytes(pickle.dumps((0.5, 2.0)))
    >>> read_statistics(path)
    (0.5, 2.0)
    >>> _ = path.write_bytes(pickle.dumps(print))
    >>> read_statistics(path)
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...asks for ...print, only numbers are...
    """
    content = _read(Path(path))
    try:
        _check_opcodes(content)
        value = _NumberUnpickler(io.BytesIO(content)).load()
        mean, std = _pair(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a broken pickle may raise almost anything
        raise InputError(
            f"{path}: expected a pickled pair of numbers: {error!r}"
        ) from error
    if not (math.isfinite(mean) and 0 < std < math.inf):
        raise InputError(
            f"{path}: expected a mean and a positive standard deviation, got "
            f"{mean} and {std}"
        )
    return mean, std


def _read(path):
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{path}: expected two numbers, got more than {MAX_BYTES} bytes"
        )
    return content


def _check_opcodes(content):
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("GLOBAL", "INST"):
            _check_global(*argument.split(" ", 1))
        if opcode.name not in _OPCODES:
            raise InputError(
                f"has the pickle operation {opcode.name}, only numbers are read"
            )
        # The unpickler makes room for all numbers up to the one it stores at.
        if opcode.name.endswith("PUT") and argument > len(content):
            raise InputError(f"stores at place {argument} of its memory")


def _check_global(module, name):
    if (module, name) not in _STAND_INS:
        raise InputError(f"asks for {module}.{name}, only numbers are read")


class _NumberUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        _check_global(module, name)
        # A new one every time: a pickle may change what it was given.
        return _Callable(_STAND_INS[module, name])


class _Callable:
    """Stands in for a function or class that a pickle calls."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)


class _DType:
    """Stands in for a numpy data type."""

    def __init__(self, code, align=False, copy=True):
        if code not in _FORMATS:
            raise InputError(f"has numbers of the type {code!r}")
        self.code = code
        self.order = "<"

    def __setstate__(self, state):
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise InputError(f"has numbers in the byte order {order!r}")
        self.order = ">" if order == ">" else "<"

    def unpack(self, data):
        return struct.unpack(self.order + _FORMATS[self.code], data)[0]


class _Array:
    """Stands in for a numpy array of one number."""

    def __init__(self, number=None):
        self.number = number

    def __setstate__(self, state):
        _version, _shape, dtype, _fortran, data = state
        self.number = dtype.unpack(data)


def _scalar(dtype, data):
    return dtype.unpack(data)


def _reconstruct(_kind, _shape, _code):
    return _Array()


def _from_buffer(data, dtype, _shape, _order):
    return _Array(dtype.unpack(data))


def _encode(text, encoding):
    if encoding != "latin1":
        raise InputError(f"has bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,  # bytes, up to protocol 2
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _STAND_INS |= {
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_core}.numeric", "_frombuffer"): _from_buffer,  # protocol 5
    }


def _pair(value):
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError("expected a pickled pair of numbers")
    return tuple(_number(item) for item in value)


def _number(item):
    if isinstance(item, _Array):
        item = item.number
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise InputError(f"expected numbers, got a {type(item).__name__}")
    return float(item)
