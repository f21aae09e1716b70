"""The own kernels in C++ (attention.cpp, layers.cpp), where they were built and the processor has what they need."""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Sizes, Strides = ctypes.c_int64 * 5, ctypes.c_int64 * 12
Range, Floats = ctypes.c_int16 * 2, ctypes.c_float * 2


@cache
def library() -> Any | None:
    """The kernels; None where they were not built, or the processor lacks what they need."""
    try:
        found = ctypes.CDLL(str(Path(__file__).with_name("_kernels.so")))
    except OSError:  # not built, or torch brings no OpenMP
        return None
    address, count, whole = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    try:
        if not found.gesso_attention_is_supported():
            return None
        found.gesso_attention.argtypes = [*[address] * 4, Sizes, Strides, ctypes.c_float, whole]
        found.gesso_gate.argtypes = [address, address, count, count, Floats, whole]
        found.gesso_layer_norm.argtypes = [*[address] * 4, count, count, ctypes.c_float, Floats, whole]
        found.gesso_silu_norm.argtypes = [*[address] * 4, *[count] * 4, ctypes.c_float, Floats, whole]
        found.gesso_range.argtypes = [address, count, Range, whole]
        found.gesso_quantize.argtypes = [address, address, count, ctypes.c_float, whole, whole]
    except AttributeError as error:  # a checkout that was updated since
        log.warning("_kernels.so is of another version (%s), so that bfloat16 is slower; build it again", error)
        return None
    for function in (found.gesso_range, found.gesso_quantize):
        function.restype = None
    return found


def has_kernels() -> bool:
    """Whether attention in bfloat16 is computed by the own kernel."""
    return library() is not None
