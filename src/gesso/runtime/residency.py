"""The networks of a model: at rest in their file, or settled in memory, ready to compute.

At rest the parameters are what the file holds: views of the mapped file, in the number format of the file, without
memory of their own. Settled they have the number format and the device that compute, and convolutions lie channels
last. Whatever is settled can be put to rest again and settled once more, since the file keeps the numbers; so networks
may take turns in memory, and one whose numbers left the range of half precision may be settled in float32.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gesso.families.parts import Parts, is_finite, refuse_nonfinite
from gesso.runtime.mapped import Block, MappedFiles

Stay = Literal["resident", "turns", "stream"]
_STEP = 2**18  # numbers that are converted and looked at while they are in the processor's cache


class Component:
    """One network of a model and the numbers that it has at rest."""

    def __init__(self, name: str, network: nn.Module, device: torch.device, where: str | Path) -> None:
        self.name, self.network, self.device, self.where = name, network, device, where
        self._stored: dict[str, Tensor] = {n: param.data for n, param in network.named_parameters()}
        self._streamed: list[Any] = []
        self.dtype: torch.dtype | None = None  # that it is settled in, or streamed in; None at rest

    @property
    def is_settled(self) -> bool:
        """Whether all its numbers are in memory."""
        return self.dtype is not None and not self._streamed

    @property
    def stored_nbytes(self) -> int:
        """Bytes of the numbers as the file holds them."""
        return sum(tensor.nbytes for tensor in self._stored.values())

    def settled_nbytes(self, dtype: torch.dtype) -> int:
        """Bytes that settling in a number format takes."""
        return sum(tensor.numel() for tensor in self._stored.values()) * dtype.itemsize

    def largest_layer_nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of the layer that takes most: what streaming holds at a time."""
        layers = (sum(p.numel() for p in layer.parameters(recurse=False)) for layer in self.network.modules())
        return max(layers) * dtype.itemsize

    def settle(self, dtype: torch.dtype) -> None:
        """Ready to compute in `dtype`. Costs nothing where it is already.

        Raises ModelFileError for numbers that are not finite, in the file or in `dtype`.
        """
        if self.dtype == dtype and not self._streamed:
            return
        self.rest()
        params = dict(self.network.named_parameters())
        with torch.inference_mode(mode=False):  # what is made within could not be changed outside
            for name, tensor in _settled(self._stored, dtype, self.device, self.where, MappedFiles.now()):
                params[name].data = tensor
        self.dtype = dtype

    def rest(self) -> None:
        """Back to what the file holds; the memory is free again."""
        for hook in self._streamed:
            hook.remove()
        self._streamed.clear()
        if self.dtype is None:
            return
        files = MappedFiles.now()
        for name, param in self.network.named_parameters():
            param.data = self._stored[name]
            files.release(self._stored[name])
        self.dtype = None

    def stream(self, dtype: torch.dtype) -> None:
        """Each layer is settled when the network comes to it and put to rest after: least memory, most time.

        Works for networks whose layers are called, not read. The numbers are checked as in `settle`.
        """
        if self.dtype == dtype and self._streamed:
            return
        self.rest()
        files = MappedFiles.now()
        for prefix, layer in self.network.named_modules():
            names = [f"{prefix}.{name}" if prefix else name for name, _ in layer.named_parameters(recurse=False)]
            if names:
                stored = {name.rpartition(".")[2]: self._stored[name] for name in names}
                streamed = _StreamedLayer(self, layer, stored, files)
                self._streamed += [
                    layer.register_forward_pre_hook(streamed.settle),
                    layer.register_forward_hook(streamed.rest, always_call=True),
                ]
        self.dtype = dtype


@contextmanager
def settled(component: Component, dtype: torch.dtype) -> Iterator[None]:
    """Within the block a network is ready to compute; then it rests."""
    component.settle(dtype)
    try:
        yield
    finally:
        component.rest()


class _StreamedLayer:
    """The parameters of one layer, in memory while it computes."""

    def __init__(
        self, component: Component, layer: nn.Module, stored: Mapping[str, Tensor], files: MappedFiles
    ) -> None:
        self.component, self.layer, self.stored, self.files = component, layer, stored, files

    def settle(self, _layer: nn.Module, _inputs: Any) -> None:
        component = self.component
        assert component.dtype is not None
        with torch.inference_mode(mode=False):
            for name, tensor in _settled(self.stored, component.dtype, component.device, component.where, self.files):
                getattr(self.layer, name).data = tensor

    def rest(self, _layer: nn.Module, _inputs: Any, _output: Any) -> None:
        for name, tensor in self.stored.items():
            getattr(self.layer, name).data = tensor
            self.files.release(tensor)


NO_COMPONENTS: Mapping[str, Component] = MappingProxyType({})


class Residency:
    """Which components of a model are in memory, and in which dtype.

    How a run wants them is an argument of each use, so that runs take turns without knowing of each other.
    """

    def __init__(
        self, parts: Parts, device: torch.device, dtypes: Mapping[str, torch.dtype], where: str | Path
    ) -> None:
        self.components = {name: Component(name, net, device, where) for name, net in parts.networks.items()}
        self._dtypes = dict(dtypes)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a component computes in unless a run asks for float32."""
        return self._dtypes[name]

    def settled_nbytes(self, beside: Iterable[Component] = ()) -> int:
        """Bytes of what is settled now; beside: control networks to count as well."""
        settled = (component for component in (*self.components.values(), *beside) if component.is_settled)
        return sum(component.settled_nbytes(component.dtype or torch.float32) for component in settled)

    def rest_all(self) -> None:
        """Gives all memory back; what is used next settles again."""
        for component in self.components.values():
            component.rest()

    def use(
        self,
        *names: str,
        stay: Stay = "resident",
        float32: Collection[str] = (),
        controls: Mapping[str, Component] = NO_COMPONENTS,
    ) -> None:
        """Makes components ready to compute, together. Raises ModelFileError as `Component.settle`.

        stay      resident: all that was used stays; turns: what is used comes, the others go; stream: as turns, and the
                  UNet comes layer by layer
        float32   components that are wanted in float32
        controls  networks that work whenever the UNet does, in its dtype
        """
        wanted = {name: (self.components[name], self._dtype(name, float32)) for name in names}
        if "unet" in names:
            wanted |= {name: (control, self._dtype("unet", float32)) for name, control in controls.items()}
        if stay != "resident":
            for name, component in (*self.components.items(), *controls.items()):
                if name not in wanted:
                    component.rest()
        for name, (component, dtype) in wanted.items():
            if stay == "stream" and (name == "unet" or name in controls):
                component.stream(dtype)
            else:
                component.settle(dtype)

    def _dtype(self, name: str, float32: Collection[str]) -> torch.dtype:
        return torch.float32 if name in float32 else self._dtypes[name]


def _settled(
    stored: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device, where: str | Path, files: MappedFiles
) -> Iterator[tuple[str, Tensor]]:
    """Name and settled tensor, in the order of the file, each number read once and looked at."""
    ordered = sorted(stored.items(), key=lambda item: item[1].data_ptr())
    if device.type == "cpu":
        copied = [tensor.numel() for _, tensor in ordered if not _is_ready(tensor, dtype)]
        block = Block((count, dtype) for count in copied)
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
    """Whether the CPU computes with these numbers as they lie."""
    if tensor.dtype != dtype or tensor.data_ptr() % tensor.itemsize:
        return False
    return tensor.is_contiguous(
        memory_format=torch.channels_last if _is_convolution(tensor) else torch.contiguous_format
    )


def _shaped(flat: Tensor, like: Tensor) -> Tensor:
    """Channels last where it is a convolution: that is how the fast convolutions read their weights."""
    if not _is_convolution(like):
        return flat.view(like.shape)
    out, into, height, width = like.shape
    return flat.view(out, height, width, into).permute(0, 3, 1, 2)


def _copy_checked(target: Tensor, source: Tensor) -> bool:
    """Copies and converts a few rows at a time, and looks at them while they are near. True where all are finite."""
    if not source.ndim:
        target.copy_(source)
        return is_finite(target)
    rows = max(1, _STEP * len(source) // max(source.numel(), 1))
    finite = True
    for first in range(0, len(source), rows):
        part = target[first : first + rows]
        piece = source[first : first + rows]
        if {piece.dtype, part.dtype} == {torch.float16, torch.bfloat16}:
            piece = piece.float().to(part.dtype)  # twice as quick as straight from one to the other
        part.copy_(piece)
        finite = finite and is_finite(part.permute(0, 2, 3, 1) if _is_convolution(part) else part)  # as it lies
    return finite
