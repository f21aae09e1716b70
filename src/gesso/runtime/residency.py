"""Offloading: which networks of a model are in memory, in which dtype, and which are left in their file.

Offloaded, a network's parameters are what the file holds: views of the mapped file, in the dtype of the file, without
memory of their own. Onloaded, they have the dtype and the device that compute, and convolutions are channels last. A
network can be offloaded and onloaded again at any time, since the file keeps the weights; so networks can take turns in
memory (model offload), layers can come and go one by one (sequential offload), and a network that left the range of
half precision can be onloaded in float32.

Packed (`runtime.packing`), the weights of linear layers and convolutions are in memory only as the processor reads
them; the parameters themselves stay what the file holds.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gesso.families.parts import ModelParts, is_finite, refuse_nonfinite
from gesso.nn.resblock import Upsample
from gesso.runtime.mapped import MappedFiles, MemoryBlock
from gesso.runtime.packing import Packed, is_packable, pack

Stay = Literal["resident", "turns", "stream"]
_STEP = 2**18  # numbers that are converted and checked while they are in the processor's cache


class Component:
    """One network of a model, and its weights as the file holds them."""

    def __init__(self, name: str, network: nn.Module, device: torch.device, where: str | Path) -> None:
        self.name, self.network, self.device, self.where = name, network, device, where
        self._stored: dict[str, Tensor] = {n: param.data for n, param in network.named_parameters()}
        self._streamed: list[Any] = []
        self._packed: list[nn.Parameter] = []
        # Weights of convolutions over a picture that was doubled in size: packed, they are 16/9 as large.
        self.doubled = {
            f"{prefix}.conv.weight" for prefix, module in network.named_modules() if isinstance(module, Upsample)
        }
        self.int8: frozenset[str] = frozenset()  # weights that multiply in int8; set while it is offloaded
        self.is_packed = False
        self.dtype: torch.dtype | None = None  # that it is onloaded or streamed in; None while offloaded

    @property
    def is_onloaded(self) -> bool:
        """Whether all its weights are in memory."""
        return self.dtype is not None and not self._streamed

    @property
    def stored_nbytes(self) -> int:
        """Bytes of the weights as the file holds them."""
        return sum(tensor.nbytes for tensor in self._stored.values())

    def onloaded_nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of memory that the weights take in a dtype, packed where they may be."""
        nbytes = 0
        for name, tensor in self._stored.items():
            numbers, size = tensor.numel(), dtype.itemsize
            if dtype == torch.bfloat16 and self.device.type == "cpu":
                numbers += numbers * 7 // 9 if name in self.doubled else 0
                size = 1 if name in self.int8 else size
            nbytes += numbers * size
        return nbytes

    def largest_layer_nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of the largest layer: what streaming holds at a time."""
        layers = (sum(p.numel() for p in layer.parameters(recurse=False)) for layer in self.network.modules())
        return max(layers) * dtype.itemsize

    def onload(self, dtype: torch.dtype, *, packed: bool = False) -> None:
        """Loads the weights into memory, ready to compute in `dtype`. Costs nothing if they are there already.

        packed  of linear layers and convolutions as the processor reads them; they compute within `cpu_kernels` alone
        Raises ModelFileError for numbers that are not finite, in the file or in `dtype`.
        """
        if self.dtype == dtype and not self._streamed and self.is_packed == packed:
            return
        self.offload()
        params, stored = dict(self.network.named_parameters()), dict(self._stored)
        with torch.inference_mode(mode=False):  # tensors made in inference mode cannot be changed outside it
            if packed:
                self._pack(params, {name: stored.pop(name) for name in self.packable()}, dtype)
            for name, tensor in _onloaded(stored, dtype, self.device, self.where, MappedFiles.now()):
                params[name].data = tensor
        self.dtype, self.is_packed = dtype, packed

    def packable(self) -> Iterator[str]:
        """Names of the weights that can be packed."""
        for prefix, module in self.network.named_modules():
            name = f"{prefix}.weight" if prefix else "weight"
            if is_packable(module) and name in self._stored:
                yield name

    def _pack(self, params: Mapping[str, nn.Parameter], stored: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """One after the other, so that no more than one weight is in memory twice."""
        files = MappedFiles.now()
        for name in sorted(stored, key=lambda name: stored[name].data_ptr()):
            ((_, tensor),) = _onloaded({name: stored[name]}, dtype, self.device, self.where, files)
            module, param = self.network.get_submodule(name.rpartition(".")[0]), params[name]
            weights = pack(module, tensor, doubled=name in self.doubled, int8=name in self.int8)
            param.packed = Packed(weights, dtype, param.data_ptr())  # type: ignore[attr-defined]
            files.release(stored[name])
            self._packed.append(param)

    def offload(self) -> None:
        """Goes back to the weights in the file and frees the memory."""
        for hook in self._streamed:
            hook.remove()
        self._streamed.clear()
        for param in self._packed:
            del param.packed  # type: ignore[attr-defined]
        self._packed.clear()
        self.is_packed = False
        if self.dtype is None:
            return
        files = MappedFiles.now()
        for name, param in self.network.named_parameters():
            param.data = self._stored[name]
            files.release(self._stored[name])
        self.dtype = None

    def stream(self, dtype: torch.dtype) -> None:
        """Sequential offload: each layer is in memory only while it computes. Least memory, slowest.

        Works for networks whose layers are called, not read. The weights are checked as in `onload`.
        """
        if self.dtype == dtype and self._streamed:
            return
        self.offload()
        files = MappedFiles.now()
        for prefix, layer in self.network.named_modules():
            names = [f"{prefix}.{name}" if prefix else name for name, _ in layer.named_parameters(recurse=False)]
            if names:
                stored = {name.rpartition(".")[2]: self._stored[name] for name in names}
                packed = f"{prefix}.weight" if f"{prefix}.weight" in self.int8 else None
                streamed = _StreamedLayer(self, layer, stored, files, packed)
                self._streamed += [
                    layer.register_forward_pre_hook(streamed.onload),
                    layer.register_forward_hook(streamed.offload, always_call=True),
                ]
        self.dtype = dtype


@contextmanager
def onloaded(component: Component, dtype: torch.dtype) -> Iterator[None]:
    """The network is in memory within the block, and is offloaded after it."""
    component.onload(dtype)
    try:
        yield
    finally:
        component.offload()


class _StreamedLayer:
    """The parameters of one layer, in memory while it computes."""

    def __init__(
        self,
        component: Component,
        layer: nn.Module,
        stored: Mapping[str, Tensor],
        files: MappedFiles,
        int8: str | None,
    ) -> None:
        self.component, self.layer, self.stored, self.files = component, layer, stored, files
        self.int8 = int8  # its weight's name in the network, if that multiplies in int8

    def onload(self, _layer: nn.Module, _inputs: Any) -> None:
        component = self.component
        assert component.dtype is not None
        with torch.inference_mode(mode=False):
            for name, tensor in _onloaded(self.stored, component.dtype, component.device, component.where, self.files):
                getattr(self.layer, name).data = tensor
            if self.int8 and component.dtype == torch.bfloat16:
                param: Any = self.layer.weight
                weights = pack(self.layer, param.data, doubled=self.int8 in component.doubled, int8=True)
                param.packed = Packed(weights, component.dtype, param.data_ptr())

    def offload(self, _layer: nn.Module, _inputs: Any, _output: Any) -> None:
        for name, tensor in self.stored.items():
            getattr(self.layer, name).data = tensor
            self.files.release(tensor)
        if self.int8 and hasattr(self.layer.weight, "packed"):
            del self.layer.weight.packed


NO_COMPONENTS: Mapping[str, Component] = MappingProxyType({})


class Residency:
    """Which components of a model are in memory, and in which dtype.

    Each use states what it needs, so that runs alternate without knowing of each other.
    """

    def __init__(
        self, parts: ModelParts, device: torch.device, dtypes: Mapping[str, torch.dtype], where: str | Path
    ) -> None:
        self.components = {name: Component(name, net, device, where) for name, net in parts.networks.items()}
        self._dtypes = dict(dtypes)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a component computes in unless a run asks for float32."""
        return self._dtypes[name]

    def onloaded_nbytes(self, controls: Iterable[Component] = ()) -> int:
        """Bytes of the weights in memory now.  controls: control networks to count as well"""
        in_memory = (component for component in (*self.components.values(), *controls) if component.is_onloaded)
        return sum(component.onloaded_nbytes(component.dtype or torch.float32) for component in in_memory)

    def offload_all(self) -> None:
        """Offloads every network; one that is used next is onloaded again."""
        for component in self.components.values():
            component.offload()

    def use(
        self,
        *names: str,
        stay: Stay = "resident",
        float32: Collection[str] = (),
        controls: Mapping[str, Component] = NO_COMPONENTS,
        packed: Collection[str] = (),
    ) -> None:
        """Onloads components that compute together. Raises ModelFileError as `Component.onload`.

        stay      resident: no offload, networks that were used stay in memory; turns (model offload): all others are
                  offloaded; stream (sequential offload): as turns, and the UNet is onloaded layer by layer
        float32   components that compute in float32
        controls  control networks, which run whenever the UNet does, in its dtype
        packed    components whose weights are packed where they compute in bfloat16; control networks as the UNet
        """
        used = {name: (self.components[name], self._dtype(name, float32)) for name in names}
        if "unet" in names:
            used |= {name: (control, self._dtype("unet", float32)) for name, control in controls.items()}
        if stay != "resident":
            for name, component in (*self.components.items(), *controls.items()):
                if name not in used:
                    component.offload()
        for name, (component, dtype) in used.items():
            if stay == "stream" and (name == "unet" or name in controls):
                component.stream(dtype)
            else:
                of = "unet" if name in controls else name
                component.onload(dtype, packed=of in packed and dtype == torch.bfloat16)

    def _dtype(self, name: str, float32: Collection[str]) -> torch.dtype:
        return torch.float32 if name in float32 else self._dtypes[name]


def _onloaded(
    stored: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device, where: str | Path, files: MappedFiles
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors in `dtype` on the device, in the order of the file; each is read and checked once."""
    ordered = sorted(stored.items(), key=lambda item: item[1].data_ptr())
    if device.type == "cpu":
        copied = [tensor.numel() for _, tensor in ordered if not _is_ready(tensor, dtype)]
        block = MemoryBlock((count, dtype) for count in copied)
    for name, tensor in ordered:
        files.fetch(tensor)
        if device.type != "cpu":
            layout = torch.channels_last if _is_convolution(tensor) else torch.preserve_format
            placed = tensor.to(device, dtype, memory_format=layout)
            refuse_nonfinite(name, tensor, placed, where)
            files.release(tensor)
        elif _is_ready(tensor, dtype):
            placed = tensor
            refuse_nonfinite(name, tensor, placed, where)
        else:
            placed = _shaped(block.take(tensor.numel(), dtype), tensor)
            if not _copy_checked(placed, tensor):
                refuse_nonfinite(name, tensor, placed, where)
            files.release(tensor)
        yield name, placed


def _is_convolution(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.shape[2:] != (1, 1)


def _is_ready(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether the CPU can compute with this tensor as it is, without a copy."""
    if tensor.dtype != dtype or tensor.data_ptr() % tensor.itemsize:
        return False
    return tensor.is_contiguous(
        memory_format=torch.channels_last if _is_convolution(tensor) else torch.contiguous_format
    )


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    """Channels last for a convolution: that is how the fast kernels read its weights."""
    if not _is_convolution(like):
        return flat.view(like.shape)
    out, into, height, width = like.shape
    return flat.view(out, height, width, into).permute(0, 3, 1, 2)


def _copy_checked(target: Tensor, source: Tensor) -> bool:
    """Copies and converts a few rows at a time, and checks them while they are in the cache. True if all are finite."""
    if not source.ndim:
        target.copy_(source)
        return is_finite(target)
    rows = max(1, _STEP * len(source) // max(source.numel(), 1))
    finite = True
    for first in range(0, len(source), rows):
        part = target[first : first + rows]
        piece = source[first : first + rows]
        if {piece.dtype, part.dtype} == {torch.float16, torch.bfloat16}:
            piece = piece.float().to(part.dtype)  # twice as fast as a direct conversion
        part.copy_(piece)
        finite = finite and is_finite(
            part.permute(0, 2, 3, 1) if _is_convolution(part) else part
        )  # in its memory order
    return finite
