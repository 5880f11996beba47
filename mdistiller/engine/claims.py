"""What the pickle inside a file of torch.save claims, read without making a tensor, a large object or a call.

torch's own reader, with `weights_only`, runs nothing of a stranger's, but it makes whatever is claimed: a tensor of
10^12 numbers, a buffer of a terabyte, keys so deep that hashing them ends the process. Here stand-ins are made.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

LARGEST_INDEX = 4 * 2**20  # bytes that tell of a file's tensors, in all; a network takes about 100 a tensor
PLAIN = str, int, float, bool, bytes, type(None)

# What a pickle may do that torch's reader does not.
OTHERS = pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8, pickle.NEWOBJ_EX, pickle.DUP, pickle.INST, pickle.OBJ

ITEM_BYTES = {
    **dict.fromkeys(("Untyped", "Byte", "Char", "Bool", "QUInt8", "QInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
# What torch makes tensors with that are not plain ones, in words.
SPECIAL = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "without its numbers (on the device meta)",
    "_rebuild_wrapper_subclass": "of a class of its own",
    "_rebuild_from_type_v2": "of a class of its own",
    "_rebuild_parameter_with_state": "of a class of its own",
    "_rebuild_device_tensor_from_numpy": "of a device of its own",
    "_rebuild_device_tensor_from_cpu_tensor": "of a device of its own",
}


class Unfounded(Exception):
    """A claim that the file does not bear out, or that no network needs."""


class HoldsCode(Exception):
    """The name of a class or function that is neither a plain tensor's nor a plain container's."""


class HoldsSpecial(Exception):
    """A tensor that is none of plain numbers; what it is, in words."""


class Bounded:
    """Reads `file`, LARGEST_INDEX bytes in all; raises Unfounded beyond."""

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, LARGEST_INDEX
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        return self._counted(self.file.read(wanted))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise Unfounded(f"more than {LARGEST_INDEX >> 20} MB tell of its tensors")
        return data


class _Options:
    """Stands for a Namespace of options."""


class _NumpyType:
    """Stands for the type of a NumPy number."""

    def __init__(self, code, *flags):
        _require(code in ("f2", "f4", "f8", "i4", "i8", "b1") and all(flag in (0, 1) for flag in flags))

    def __setstate__(self, state):
        _require(isinstance(state, tuple) and all(isinstance(item, PLAIN) for item in state))


class _Parts(tuple):
    """Stands for a storage of (bytes of an item, items)."""


class _Tensor:
    """Stands for a tensor."""


def _require(is_so: Any) -> None:
    if not is_so:
        raise Unfounded("a tensor or container is not as torch.save writes it")


def _plain(*args: Any) -> list[Any]:
    """Stands for a call that makes a container of plain values, or of keys and values; refuses keys that are not."""
    for items in args:
        if isinstance(items, (list, tuple)):  # pairs, as Python 2 wrote them, or items
            _require(all(isinstance(item[0] if isinstance(item, (list, tuple)) else item, PLAIN) for item in items))
        else:
            _require(isinstance(items, (dict, *PLAIN)))
    return list(args)


def _ordered(pairs: Any = ()) -> OrderedDict:
    _plain(pairs)
    return OrderedDict(pairs)


def _counts(values: Any = ()) -> dict:
    _require(isinstance(values, dict) or values == ())
    return dict(values)


def _bytes(*args: Any) -> bytes:
    """Stands for a bytearray of given bytes, not of a given length, and for text that Python 2 reads as bytes."""
    _require(not args or isinstance(args[0], (str, bytes)))
    _require(len(args) < 2 or args[1] in ("latin1", "latin-1"))
    return b""


def _number(kind: Any, data: Any) -> float:
    _require(isinstance(kind, _NumpyType) and isinstance(data, (str, bytes)))
    return 0.0


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, *rest, item_bytes=None):
    """Stands for a tensor; it has no more numbers than its storage, and they are within it."""
    _require(isinstance(storage, _Parts) and isinstance(size, tuple) and isinstance(stride, tuple))
    _require(len(size) == len(stride) <= 64 and not hooks and not any(rest))
    _require(all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride)))
    stored = storage[0] * storage[1] // (item_bytes or storage[0])
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > stored or (math.prod(size) and last >= stored):
        raise Unfounded(f"a tensor of {math.prod(size):.4g} numbers is not within the {stored} stored")
    return _Tensor()


def _tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, *rest):
    _require(isinstance(dtype, torch.dtype))
    return _tensor(storage, offset, size, stride, requires_grad, hooks, *rest, item_bytes=dtype.itemsize)


def _parameter(data, requires_grad=True, hooks=None):
    _require(isinstance(data, _Tensor) and not hooks)
    return data


STAND_INS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counts,
    "_codecs.encode": _bytes,
    "numpy.dtype": _NumpyType,
    "argparse.Namespace": _Options,
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _number),
    **dict.fromkeys(("builtins.bytearray", "__builtin__.bytearray"), _bytes),
    **dict.fromkeys(("builtins.set", "__builtin__.set", "builtins.complex", "__builtin__.complex"), _plain),
    **dict.fromkeys(("torch.Size", "torch.device", "torch.serialization._get_layout"), _plain),
}


_Unpickler: Any = pickle._Unpickler  # the one in Python, whose steps can be looked at, and whose memory is bounded


class Claims(_Unpickler):
    """Reads one pickle after another from `file`; storages: the most bytes that are claimed of each, by its key."""

    def __init__(self, file: Any):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, int] = {}
        self.handed = 0

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name in STAND_INS:
            return STAND_INS[full_name]
        kind = name.removesuffix("Storage")
        if module in ("torch", "torch.cuda", "torch.storage") and name != kind and kind in ITEM_BYTES:
            return ITEM_BYTES[kind]
        if module == "torch" and isinstance(value := vars(torch).get(name), torch.dtype):
            return value
        if name in SPECIAL:
            raise HoldsSpecial(SPECIAL[name])
        raise HoldsCode(full_name)

    def persistent_load(self, pid: Any) -> _Parts:
        _require(isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] in ("storage", b"storage"))
        _, item_bytes, key, place, items = pid[:5]
        _require(all(type(number) is int and 0 <= number < 2**48 for number in (item_bytes, items)))
        _require(isinstance(key, str) and isinstance(place, str))
        self.storages[key] = max(self.storages.get(key, 0), item_bytes * items)
        return _Parts((item_bytes, items))

    # A value may be handed over again and again at two bytes a time; the work is that of its length.
    def _hand(self, *values: Any) -> None:
        self.handed += sum(len(value) for value in values if isinstance(value, (str, bytes, list, tuple, dict)))
        if self.handed > LARGEST_INDEX:
            raise Unfounded("it repeats itself without end")

    def load_reduce(self) -> None:
        _require(isinstance(self.stack[-1], tuple))
        self._hand(*self.stack[-1])
        super().load_reduce()

    def load_build(self) -> None:
        state, made = self.stack[-1], self.stack[-2]
        self._hand(*(state if isinstance(state, tuple) else (state,)))
        if isinstance(made, OrderedDict):  # any other attribute might stand for a method
            _require(isinstance(state, dict) and state.keys() <= {"_metadata"})
        elif isinstance(made, _Options):
            _require(isinstance(state, dict) and not any(str(key).startswith("__") for key in state))
        else:
            _require(isinstance(made, _NumpyType))
        super().load_build()

    def load_setitem(self) -> None:
        _require(isinstance(self.stack[-2], PLAIN))
        super().load_setitem()

    def load_setitems(self) -> None:
        _require(all(isinstance(key, PLAIN) for key in self.stack[::2]))
        super().load_setitems()

    def load_dict(self) -> None:
        _require(all(isinstance(key, PLAIN) for key in self.stack[::2]))
        super().load_dict()

    def load_newobj(self) -> None:
        _require(self.stack[-2] is _Options and self.stack[-1] == ())
        super().load_newobj()

    dispatch = {
        **{code: read for code, read in _Unpickler.dispatch.items() if bytes([code]) not in OTHERS},
        pickle.NEWOBJ[0]: load_newobj,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }
