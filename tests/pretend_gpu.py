"""A second device that is not there. Tensors on it say that they lie on ``gpu:0``; they are computed on the CPU.

To compute with tensors of both is refused, as a GPU refuses it, but for numbers without a dimension; so is to draw on it
with a generator of the CPU. So code that forgets to move a tensor fails here as it would there. Where it does not, the
numbers are the CPU's.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)  # from one device to another
INDEXING = (
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)  # indices may lie on the CPU


class OnGPU(torch.Tensor):
    """A tensor that says it lies on the device; ``inner`` holds its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        where = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="gpu:0", **where)

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __repr__(self, **_) -> str:
        return f"OnGPU({self.inner})"

    def tolist(self) -> list:
        return self.inner.tolist()

    def __format__(self, spec: str) -> str:
        return format(self.inner, spec)

    def __reduce_ex__(self, protocol: int):
        return self.inner.__reduce_ex__(protocol)  # as a file gives it back with map_location="cpu"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Where this is entered, tensors can be made on ``"gpu"``, and modules moved to it."""

    def __enter__(self):
        torch.__future__.set_swap_module_params_on_conversion(True)
        self.load, torch.load = torch.load, _load
        self.data = _MadeOfData()
        self.data.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        torch.__future__.set_swap_module_params_on_conversion(False)
        torch.load = self.load
        self.data.__exit__(*error)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(isinstance(leaf, OnGPU) or _is_gpu(leaf) for leaf in tree_leaves((args, kwargs))):
            return _computed(func, args, kwargs)
        return func(*args, **kwargs)


class _MadeOfData(TorchFunctionMode):
    """Tensors of numbers in Python, which torch makes without asking a dispatch mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_gpu(torch.device(kwargs.get("device") or "cpu")):
            return func(*args, **{**kwargs, "device": "cpu"}).to("gpu")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _tensors_of_lists(args[1]), *args[2:])
        return func(*args, **kwargs)


def _tensors_of_lists(index: object) -> object:
    if isinstance(index, tuple):
        return tuple(map(_tensors_of_lists, index))
    return torch.tensor(index) if isinstance(index, list) else index


_load_to_cpu = torch.load


def _load(file, map_location=None, **options):
    """``torch.load``, which cannot move storages to the pretended device."""
    state = _load_to_cpu(file, map_location="cpu", **options)
    return tree_map(lambda leaf: leaf.to(map_location) if isinstance(leaf, torch.Tensor) else leaf, state)


def _is_gpu(device: object) -> bool:
    return isinstance(device, torch.device) and device.type == "gpu"


def _inner(leaf: object) -> object:
    return leaf.inner if isinstance(leaf, OnGPU) else torch.device("cpu") if _is_gpu(leaf) else leaf


def _computed(func, args: tuple, kwargs: dict) -> object:
    leaves = tree_leaves((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, OnGPU)]
    mixed = (args[0], *args[2:]) if func in INDEXING and isinstance(args[0], OnGPU) else (args, kwargs)
    here = [leaf for leaf in tree_leaves(mixed) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnGPU)]
    here = [tensor for tensor in here if tensor.ndim]
    if any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func.name()}: expected a 'gpu' device type for generator, found 'cpu'")
    if there and here and func not in CROSSING:
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (there, here)]
        raise RuntimeError(
            f"{func.name()}: all tensors must be on one device, got {shapes[0]} on gpu, {shapes[1]} on cpu"
        )
    inner_args, inner_kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
    found = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default:
        return args[0]
    same = {id(inner): leaf for inner, leaf in zip(tree_leaves((inner_args, inner_kwargs)), leaves)}  # written in place
    on_gpu = _is_gpu(kwargs["device"]) if kwargs.get("device") is not None else bool(there)

    def outer(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return same.get(id(leaf)) if id(leaf) in same else OnGPU(leaf) if on_gpu else leaf

    return tree_map(outer, found)


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("gpu", _Backend())
