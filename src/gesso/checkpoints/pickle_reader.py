"""Pickles of tensors, read as data: an interpreter of the operations that `torch.save` writes, and of no others.

Nothing that a pickle names is ever imported or called. A name on the closed list below becomes a value of this module
(a storage, a reference to a tensor, a dictionary) or an inert placeholder; any other name, any other operation and
anything beyond the limits stops the reading. Python's own `pickle` is not used.

The operations are those of protocols 2 to 5 (PEP 307, PEP 3154, PEP 574). Standard library alone: this runs in a child
process that has nothing else.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gesso.checkpoints.errors import ModelFileError, Reason
from gesso.checkpoints.safetensors_layout import ITEM_SIZES, MAX_DIMS, MAX_NAME, MAX_SIDE, MAX_TENSORS
from gesso.errors import shorten


@dataclass(frozen=True, kw_only=True)
class PickleLimits:
    """What a pickle may ask for. A full SD 1.x training checkpoint takes 100,000 operations, SDXL about as many."""

    operations: int = 1_000_000
    memo: int = 1_000_000
    text: int = 2**20  # bytes of one string
    nbytes: int = 64 * 2**20  # the pickle itself, without the numbers of the tensors
    tensors: int = MAX_TENSORS


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of tensor data elsewhere in the file. dtype None: bytes whose dtype each tensor states."""

    key: str
    dtype: str | None
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole block."""
        return self.count * (1 if self.dtype is None else ITEM_SIZES[self.dtype])


@dataclass(frozen=True, slots=True, eq=False)
class TensorRef:
    """A tensor as a window onto a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers the tensor has."""
        count = 1
        for side in self.shape:
            count *= side
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor once it is written out."""
        return self.count * ITEM_SIZES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        """Whether its numbers lie one after the other, last dimension fastest."""
        step = 1
        for side, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if side != 1 and stride != step:
                return False
            step *= side
        return True


@dataclass(frozen=True, slots=True)
class Global:
    """A name from the closed list. It stands for itself: there is nothing behind it."""

    name: str


@dataclass(slots=True, eq=False)
class Inert:
    """What calling a harmless class would have made: remembered with its state, never brought to life."""

    what: str
    state: Any = None


_STORAGES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": None,
}

_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}

# Types that carry no more than themselves, by their names of Python 3 and of Python 2, which protocol 2 writes.
_BUILTINS = (
    *("set", "frozenset", "list", "tuple", "str", "unicode", "bytes", "int", "long", "float", "bool", "complex"),
    *("slice", "range", "xrange", "object"),
)

# Classes that training tools leave beside the weights: counters, settings, callbacks. Placeholders take their place.
_INERT = frozenset(
    {
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
        "argparse.Namespace",
        "collections.deque",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.dtype",
        "numpy.ndarray",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode",
        "pathlib.Path",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        *(
            f"{package}.{name}"
            for package in ("pytorch_lightning", "lightning.pytorch")
            for name in (
                "callbacks.ModelCheckpoint",
                "callbacks.early_stopping.EarlyStopping",
                "callbacks.lr_monitor.LearningRateMonitor",
                "callbacks.model_checkpoint.ModelCheckpoint",
                "callbacks.timer.Timer",
                "utilities.parsing.AttributeDict",
            )
        ),
        "torch.device",
        "torch.nn.modules.container.ParameterDict",
        "torch.nn.parameter.Parameter",
        "torch.torch_version.TorchVersion",
        "typing.Any",
    }
)

# Functions whose result is beside the point here: numbers of NumPy and its arrays, which hold no weights of a model.
_INERT_CALLS = frozenset(
    f"{module}.{name}"
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("scalar", "_reconstruct")
)

PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
_DICTS = frozenset(
    {"collections.OrderedDict", "collections.Counter", "collections.defaultdict", "builtins.dict", "__builtin__.dict"}
)
_CALLS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.Size",
        "_codecs.encode",
    }
)

KNOWN_GLOBALS = frozenset(_STORAGES) | frozenset(_DTYPES) | _INERT | _INERT_CALLS | _DICTS | _CALLS
_INTERNED = {name: Global(name) for name in KNOWN_GLOBALS}


class _StopError(Exception):
    """The pickle is at its end."""


def read_pickle(
    data: bytes, start: int = 0, *, where: str, limits: PickleLimits | None = None
) -> tuple[Any, int, dict[str, Storage]]:
    """One pickle -> the value, where it ends, the storages that it refers to.

    The value is made of None, bool, int, float, str, bytes, tuple, list, dict, TensorRef, Storage, Global and Inert.
    What is wrong raises ModelFileError: pickle_damaged, pickle_opcode, pickle_global, pickle_limit or tensor_bounds.
    Runs in time and memory proportional to the pickle and to limits.operations.
    """
    machine = _Machine(data, start, where, limits or PickleLimits())
    return machine.run(), machine.at, machine.storages


@dataclass
class _Machine:
    """The stack machine that a pickle is a program for."""

    data: bytes
    at: int
    where: str
    limits: PickleLimits
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    marks: list[int] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    tensors: int = 0

    def run(self) -> Any:
        data, handlers = self.data, _HANDLERS
        for _ in range(self.limits.operations):
            if self.at >= len(data):
                self.refuse("pickle_damaged", "the pickle ends without its last operation")
            code = data[self.at]
            self.at += 1
            handler = handlers.get(code)
            if handler is None:
                self.refuse(
                    "pickle_opcode", f"the pickle has operation {_opcode_name(code)}, which weights do not need"
                )
            try:
                handler(self)
            except _StopError:
                return self._result()
            except IndexError:
                self.refuse("pickle_damaged", "the pickle takes more from its stack than it put there")
        self.refuse("pickle_limit", f"the pickle has more than {self.limits.operations:,} operations")
        raise AssertionError  # for the type checker: refuse raises

    def _result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            self.refuse("pickle_damaged", f"the pickle leaves {len(self.stack)} values, expected 1")
        return self.stack[0]

    def refuse(self, reason: Reason, message: str) -> NoReturn:
        raise ModelFileError(reason, self.where, message)

    # ---- bytes ----

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            self.refuse("pickle_damaged", "the pickle ends in the middle of an operation")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def string(self, width: int) -> bytes:
        length = self.number(width)
        if length > self.limits.text:
            self.refuse(
                "pickle_limit", f"the pickle has a text of {length:,} bytes, expected at most {self.limits.text:,}"
            )
        return self.take(length)

    def text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.refuse("pickle_damaged", "the pickle has a text that is not UTF-8")

    def old_text(self, raw: bytes) -> str | bytes:
        """Python 2's str, which is text or bytes."""
        return raw.decode("ascii") if raw.isascii() else raw

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        if end < 0:
            self.refuse("pickle_damaged", "the pickle has a name without an end")
        raw = self.take(end - self.at)
        self.at += 1
        return self.text(raw)

    # ---- stack ----

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError  # what lies below belongs to somebody else
        return self.stack.pop()

    def top(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def put(self, index: int) -> None:
        if len(self.memo) >= self.limits.memo and index not in self.memo:
            self.refuse("pickle_limit", f"the pickle memoises more than {self.limits.memo:,} values")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse("pickle_damaged", "the pickle recalls a value that it did not memoise")
        self.push(self.memo[index])

    # ---- containers ----

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            self.refuse("pickle_damaged", "the pickle has a key without a value")
        if isinstance(target, Inert):  # a subclass of dict that is a placeholder here
            return
        if type(target) is not dict:
            self.refuse("pickle_damaged", "the pickle sets items of something that is not a dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[self.key(key)] = value

    def key(self, key: Any) -> Any:
        """A dictionary key, of kinds whose hash neither fails nor digs deep."""
        parts = key if type(key) is tuple else (key,)
        if len(parts) > 8 or not all(type(part) in _KEY_TYPES for part in parts):
            self.refuse("pickle_damaged", "the pickle has a dictionary with a key that is not a plain value")
        return key

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Inert):
            return
        if type(target) is not list:
            self.refuse("pickle_damaged", "the pickle appends to something that is not a list")
        target.extend(values)

    # ---- names and what they make ----

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.refuse("pickle_damaged", "the pickle has a name that is not text")
        interned = _INTERNED.get(f"{module}.{name}")
        if interned is None:
            message = f"asks for {shorten(f'{module}.{name}')}, which is code, or data that weights do not need"
            self.refuse("pickle_global", f"{message}. It may be an attack: do not open it with other tools either")
        self.push(interned)

    def call(self, function: Any, args: Any) -> Any:
        if type(function) is not Global or type(args) is not tuple:
            self.refuse("pickle_damaged", "the pickle calls something that is not a function")
        name = function.name
        if name in _DICTS:
            return self.make_dict(name, args)
        if name in _INERT or name in _INERT_CALLS:
            return Inert(name, args)
        make = _MAKERS.get(name)
        if make is None:
            self.refuse("pickle_global", f"calls {name}, which is not a function that makes weights")
        return make(self, args)

    def make_dict(self, name: str, args: tuple[Any, ...]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        if args and name != "collections.defaultdict":  # whose argument is the factory
            pairs = args[0]
            if len(args) != 1 or type(pairs) not in (list, tuple, dict):
                self.refuse("pickle_damaged", "the pickle makes a dictionary from something that is not pairs")
            for pair in pairs.items() if type(pairs) is dict else pairs:
                if type(pair) not in (list, tuple) or len(pair) != 2:
                    self.refuse("pickle_damaged", "the pickle makes a dictionary from something that is not pairs")
                result[self.key(pair[0])] = pair[1]
        return result

    def make_size(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        if len(args) != 1:
            self.refuse("pickle_damaged", "the pickle has a size of the wrong form")
        return self.counts(args[0], "size")

    def encode(self, args: tuple[Any, ...]) -> bytes:
        """How protocol 2 spells bytes."""
        if not (1 <= len(args) <= 2) or type(args[0]) is not str or args[1:] not in ((), ("latin1",), ("latin-1",)):
            self.refuse("pickle_damaged", "the pickle encodes something that is not text")
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError:
            self.refuse("pickle_damaged", "the pickle encodes text that is not Latin-1")

    def parameter(self, args: tuple[Any, ...]) -> TensorRef:
        if not (2 <= len(args) <= 4) or type(args[0]) is not TensorRef:
            self.refuse("pickle_damaged", "the pickle makes a parameter from something that is not a tensor")
        return args[0]

    def tensor(self, args: tuple[Any, ...]) -> TensorRef:
        """(storage, offset, size, stride, requires_grad, hooks, metadata), the last three as far as given."""
        if not (4 <= len(args) <= 7):
            self.refuse("pickle_damaged", f"the pickle makes a tensor from {len(args)} values")
        return self.window(args[0], args[1], args[2], args[3], None)

    def tensor_of_bytes(self, args: tuple[Any, ...]) -> TensorRef:
        """(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)"""
        if not (7 <= len(args) <= 8) or type(args[6]) is not Global or args[6].name not in _DTYPES:
            self.refuse("dtype", "the pickle makes a tensor of a dtype that gesso does not read")
        return self.window(args[0], args[1], args[2], args[3], _DTYPES[args[6].name])

    def window(self, storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None) -> TensorRef:
        if type(storage) is not Storage:
            self.refuse("pickle_damaged", "the pickle makes a tensor without a storage")
        dtype = dtype or storage.dtype
        if dtype is None or storage.dtype not in (None, dtype):
            self.refuse("pickle_damaged", "the pickle makes a tensor of another dtype than its storage")
        self.tensors += 1
        if self.tensors > self.limits.tensors:
            self.refuse("pickle_limit", f"the pickle has more than {self.limits.tensors:,} tensors")
        shape, stride = self.counts(shape, "shape"), self.counts(stride, "strides")
        if type(offset) is not int or offset < 0 or len(shape) != len(stride):
            self.refuse(
                "tensor_bounds", "the pickle has a tensor whose shape, strides and offset do not fit each other"
            )
        tensor = TensorRef(storage, dtype, offset, shape, stride)
        last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        if tensor.count and (last + 1) * ITEM_SIZES[dtype] > storage.nbytes:
            window = f"shape {list(shape)}, strides {list(stride)}, offset {offset}"
            self.refuse("tensor_bounds", f"a tensor with {window} reaches beyond its {storage.nbytes:,} bytes")
        return tensor

    def counts(self, numbers: Any, what: str) -> tuple[int, ...]:
        if type(numbers) not in (tuple, list) or len(numbers) > MAX_DIMS:
            self.refuse("tensor_bounds", f"a tensor whose {what} is not at most {MAX_DIMS} numbers")
        if not all(type(value) is int and 0 <= value <= MAX_SIDE for value in numbers):
            self.refuse("tensor_bounds", f"a tensor whose {what} has a number outside 0 to {MAX_SIDE}")
        return tuple(numbers)

    def storage(self, value: Any) -> Storage:
        """('storage', class, key, device, count[, view]): how torch.save refers to numbers outside the pickle."""
        if (
            type(value) is not tuple
            or len(value) not in (5, 6)
            or value[0] != "storage"
            or value[5:] not in ((), (None,))
        ):
            self.refuse("pickle_damaged", "the pickle refers to something outside itself that is not a storage")
        kind, key, count = value[1], value[2], value[4]
        if type(kind) is not Global or kind.name not in _STORAGES or type(key) is not str or type(value[3]) is not str:
            self.refuse("pickle_damaged", "the pickle refers to a storage of an unknown kind")
        if type(count) is not int or not 0 <= count <= 2**40:
            self.refuse("tensor_bounds", "the pickle refers to a storage of an impossible size")
        storage = Storage(key, _STORAGES[kind.name], count)
        if self.storages.setdefault(key, storage) != storage:
            self.refuse("tensor_bounds", f"the pickle gives storage {shorten(key)!r} two sizes or kinds")
        return self.storages[key]

    def build(self) -> None:
        """State for an object: attributes, which only a placeholder keeps."""
        state = self.pop()
        target = self.top()
        if type(target) is Inert:
            target.state = state
        elif type(target) is not dict:  # an OrderedDict's attributes (_metadata of a state_dict) are not weights
            self.refuse("pickle_damaged", "the pickle sets the state of a plain value")


_KEY_TYPES = (str, int, float, bool, bytes, type(None), Global)

_MAKERS: Mapping[str, Callable[[_Machine, tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _Machine.tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.tensor_of_bytes,
    "torch._utils._rebuild_parameter": _Machine.parameter,
    "torch._utils._rebuild_parameter_with_state": _Machine.parameter,
    "torch.Size": _Machine.make_size,
    "_codecs.encode": _Machine.encode,
}


# ---- the operations --------------------------------------------------------------------------------------------------


def _proto(m: _Machine) -> None:
    if not 2 <= m.number(1) <= 5:
        m.refuse("pickle_damaged", "the pickle has a protocol that is not 2 to 5")


def _stop(m: _Machine) -> None:
    raise _StopError


def _frame(m: _Machine) -> None:
    if m.number(8) > len(m.data) - m.at:
        m.refuse("pickle_damaged", "the pickle has a frame beyond its end")


def _long(m: _Machine, width: int) -> None:
    length = m.number(width)
    if length > 8:
        m.refuse("pickle_limit", f"the pickle has a whole number of {length:,} bytes, expected at most 8")
    m.push(m.number(length, signed=True))


def _tuple(m: _Machine, count: int) -> None:
    values = [m.pop() for _ in range(count)]
    m.push(tuple(reversed(values)))


def _set_item(m: _Machine) -> None:
    value = m.pop()
    key = m.pop()
    m.set_items([key, value])


def _stack_global(m: _Machine) -> None:
    name = m.pop()
    m.name(m.pop(), name)


def _reduce(m: _Machine) -> None:
    args = m.pop()
    m.push(m.call(m.pop(), args))


def _new_object(m: _Machine) -> None:
    args = m.pop()
    kind = m.pop()
    if type(kind) is not Global or (kind.name not in _INERT and kind.name not in _DICTS):
        m.refuse("pickle_global", "the pickle makes an object of a class that is not a placeholder's")
    m.push(m.call(kind, args))


def _add_items(m: _Machine) -> None:
    m.pop_to_mark()
    if type(m.top()) is not Inert:
        m.refuse("pickle_damaged", "the pickle adds items to something that is not a set")


def _frozen_set(m: _Machine) -> None:
    m.pop_to_mark()
    m.push(Inert("frozenset"))


_HANDLERS: dict[int, Callable[[_Machine], None]] = {
    0x80: _proto,
    0x95: _frame,
    ord("."): _stop,
    ord("("): lambda m: m.marks.append(len(m.stack)),
    # plain values
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.push(m.number(4, signed=True)),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    0x8A: lambda m: _long(m, 1),
    0x8B: lambda m: _long(m, 4),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    0x8C: lambda m: m.push(m.text(m.string(1))),
    ord("X"): lambda m: m.push(m.text(m.string(4))),
    0x8D: lambda m: m.push(m.text(m.string(8))),
    ord("U"): lambda m: m.push(m.old_text(m.string(1))),
    ord("T"): lambda m: m.push(m.old_text(m.string(4))),
    ord("C"): lambda m: m.push(m.string(1)),
    ord("B"): lambda m: m.push(m.string(4)),
    0x8E: lambda m: m.push(m.string(8)),
    # containers
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.pop_to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    0x8F: lambda m: m.push(Inert("set")),
    0x90: _add_items,
    0x91: _frozen_set,
    # memory
    ord("q"): lambda m: m.put(m.number(1)),
    ord("r"): lambda m: m.put(m.number(4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(1)),
    ord("j"): lambda m: m.get(m.number(4)),
    # names from the closed list, what they make, storages
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.push(m.storage(m.pop())),
}

# Operations that exist and are refused, for the message.
_REFUSED = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    0x92: "NEWOBJ_EX",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    ord("P"): "PERSID",
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("F"): "FLOAT",
    ord("S"): "STRING",
    ord("V"): "UNICODE",
    ord("g"): "GET",
    ord("p"): "PUT",
    ord("l"): "LIST",
    ord("d"): "DICT",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}


def _opcode_name(code: int) -> str:
    return _REFUSED.get(code, f"0x{code:02x}")


# ---- which of the values are the weights -----------------------------------------------------------------------------

# Where tools put them in the outermost dictionary: training checkpoints; upscalers (the average first).
_WRAPPERS = ("state_dict", "params_ema", "params", "model")
# IP-Adapter: two dictionaries of tensors that are one model. Their tensors are named as its safetensors files do.
_GROUPS = frozenset({"image_proj", "ip_adapter"})


def named_tensors(root: Any, *, where: str) -> tuple[dict[str, TensorRef], list[str]]:
    """The weights among the values of a pickle, and in words what was left out.

    Weights are the tensors of the outermost dictionary, or of the one that it holds under a name of _WRAPPERS. The two
    dictionaries of an IP-Adapter are joined with a dot. Of a textual inversion in A1111's form the vectors are taken
    as "emb_params", the name of its safetensors form. Raises ModelFileError (pickle_content) where that is not so.
    """
    if type(root) is not dict:
        raise ModelFileError("pickle_content", where, "does not hold a table of named tensors")
    if "string_to_param" in root:
        return _embedding(root, where)
    content, left = root, []
    if wrapper := next((key for key in _WRAPPERS if _holds_tensors(root.get(key))), None):
        content = root[wrapper]
        left = [_describe(key, value) for key, value in root.items() if key != wrapper]
    tensors: dict[str, TensorRef] = {}
    for key, value in content.items():
        if isinstance(value, TensorRef):
            tensors[_tensor_name(key, where)] = value
        elif key in _GROUPS and content is root and _holds_tensors(value):
            tensors.update((_tensor_name(f"{key}.{k}", where), v) for k, v in value.items() if isinstance(v, TensorRef))
            left += [_describe(f"{key}.{k}", v) for k, v in value.items() if not isinstance(v, TensorRef)]
        else:
            left.append(_describe(key, value))
    if not tensors:
        held = f": {', '.join(left[:5])}" if left else ""
        raise ModelFileError("pickle_content", where, f"holds no named tensors{held}")
    return tensors, left


def _embedding(root: dict[Any, Any], where: str) -> tuple[dict[str, TensorRef], list[str]]:
    vectors = root["string_to_param"]
    if isinstance(vectors, Inert) and vectors.what == PARAMETER_DICT and type(vectors.state) is dict:
        vectors = vectors.state.get("_parameters")
    if type(vectors) is not dict or len(vectors) != 1 or not _holds_tensors(vectors):
        raise ModelFileError(
            "pickle_content", where, "looks like an embedding (textual inversion), but not of one word"
        )
    left = [_describe(key, value) for key, value in root.items() if key != "string_to_param"]
    return {"emb_params": next(iter(vectors.values()))}, left


def _holds_tensors(value: Any) -> bool:
    return type(value) is dict and any(isinstance(item, TensorRef) for item in value.values())


def _tensor_name(name: Any, where: str) -> str:
    if type(name) is not str or not 0 < len(name) <= MAX_NAME or name == "__metadata__" or not _is_text(name):
        message = f"a tensor without a name of 1 to {MAX_NAME} characters of Unicode"
        raise ModelFileError("pickle_content", where, message)
    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _describe(key: Any, value: Any) -> str:
    name = key if type(key) is str else key.name if type(key) is Global else type(key).__name__
    if type(value) in (dict, list, tuple):
        return f"{shorten(name)} ({type(value).__name__} of {len(value)})"
    kind = value.what if type(value) is Inert else value.name if type(value) is Global else type(value).__name__
    return f"{shorten(name)} ({kind})"
