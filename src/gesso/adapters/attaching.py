"""Attaches LoRA to networks, at run time or merged into the weights: `attach`. Detaching restores every bit.

An `Attachment` can be attached and detached any number of times, for each call of a network that runs with other
adapters or with none as well. Attached for some rows alone (`on`), it does not change the other rows of a call.

At run time the weights are not changed: a hook adds the adapter's part to the output of a layer, so nothing is copied,
the networks may be offloaded, streamed or onloaded meanwhile, and the strength may change from call to call. Merged,
the changed layers get new weights besides the old ones, which are restored afterwards; this costs the memory of those
layers and no time per step, and the networks must not be offloaded. Both give the same pictures up to rounding.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.adapters.changes import LowRank
from gesso.adapters.lora import Lora, ModuleChange
from gesso.checkpoints.errors import ModelFileError

MAX_STRENGTH = 1000.0

# A number, or a function that is called whenever a layer runs: a strength that changes over the steps.
Strength = float | Callable[[], float]


def attach(
    networks: Mapping[str, nn.Module], loras: Sequence[tuple[Lora, Strength, Strength]], *, merged: bool = False
) -> "Attachment":
    """Attaches adapters to networks until `detach`, or to the end of a `with` block.

    networks  the networks to change, of those of the adapters' `Target` (unet, text, text_2)
    loras     each with its strength for the UNet and for the text encoders; 0 switches a part off
    merged    merge into the weights; a strength that changes is read when it is attached
    The order of several does not matter. Raises ValueError for a strength that is not a number of at most 1000,
    ModelFileError if merged weights overflow their dtype.
    """
    attachment = attachment_of(networks, loras, merged=merged)
    try:
        attachment.begin()
    except BaseException:
        attachment.detach()
        raise
    return attachment


def attachment_of(
    networks: Mapping[str, nn.Module], loras: Sequence[tuple[Lora, Strength, Strength]], *, merged: bool = False
) -> "Attachment":
    """The same, not yet attached: `Attachment.on` does that. Raises ValueError as `attach`."""
    attachment = Attachment(networks, merged)
    for lora, unet, text in loras:
        for strength in (unet, text):
            if not callable(strength):
                _checked(strength)
        for name, change in lora.changes.items():
            component = name.partition(".")[0]
            strength = unet if component == "unet" else text
            if component in networks and (callable(strength) or strength != 0):
                attachment._add(name, change, strength, lora)
    if not any(callable(strength) for _, unet, text in loras for strength in (unet, text)):
        kept = sorted((id(lora), unet, text) for lora, unet, text in loras)  # the attachment holds them
        attachment.key = (*((name, id(network)) for name, network in sorted(networks.items())), *kept, merged)
    return attachment


def _checked(strength: float) -> float:
    if not math.isfinite(strength) or abs(strength) > MAX_STRENGTH:
        raise ValueError(f"strength {strength}: expected a number of at most {MAX_STRENGTH:g}")
    return strength


def _now(strength: Strength) -> float:
    return _checked(strength()) if callable(strength) else strength


class Attachment:
    """Adapters for networks, attached or not. A context manager; `detach` may be called more than once.

    key  equal for two that change the same networks alike, so that either will do for both
    """

    def __init__(self, networks: Mapping[str, nn.Module], merged: bool) -> None:
        self._networks, self._merged = networks, merged
        self.key: object = (id(self),)
        self._layers: dict[str, _Layer] = {}

    @property
    def is_by_row(self) -> bool:
        """Whether it can be attached for some rows of a call alone: not if it is merged."""
        return not any(layer.merged for layer in self._layers.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the layers that are changed, which merged weights take once more."""
        return sum(param.nbytes for layer in self._layers.values() for param in layer.module.parameters(recurse=False))

    @property
    def num_layers(self) -> int:
        """Layers that are changed."""
        return len(self._layers)

    @contextmanager
    def on(self, rows: slice | None = None) -> Iterator[None]:
        """Attached within the block, for some rows of the batches or for all; detached after it.

        What was computed for it is cached. Raises ValueError for rows if it is merged, ModelFileError if merged weights
        overflow their dtype.
        """
        if rows is not None and not self.is_by_row:
            raise ValueError("merged adapters apply to all rows, not to some")
        try:
            self.begin(rows)
            yield
        finally:
            for layer in self._layers.values():
                layer.end()

    def begin(self, rows: slice | None = None) -> None:
        """Attached until `detach`; see `on`."""
        for layer in self._layers.values():
            layer.begin(rows)

    def detach(self) -> None:
        """Restores the networks bit by bit."""
        for layer in self._layers.values():
            layer.detach()
        self._layers.clear()

    def _add(self, name: str, change: ModuleChange, strength: Strength, lora: Lora) -> None:
        component, _, module = name.partition(".")
        if name not in self._layers:
            self._layers[name] = _Layer(self._networks[component].get_submodule(module), name, self._merged)
        self._layers[name].parts.append(_Part(change, strength, lora))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


class _Part:
    """One adapter's part in a layer, with its tensors on the device and in the dtype of the layer."""

    def __init__(self, change: ModuleChange, strength: Strength, lora: Lora) -> None:
        self.change, self.strength, self.lora = change, strength, lora
        self._placed: tuple[Any, ...] = ()
        self._for: tuple[torch.device, torch.dtype] | None = None

    def placed(self, module: nn.Module, output: Tensor, *, with_weight: bool) -> tuple[Any, ...]:
        """(factors, whole delta, bias), computed once per device and dtype of the layer."""
        target = (output.device, output.dtype)
        if self._for != target:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._placed = self._place(module, *target, with_weight=with_weight)
            self._for = target
        return self._placed

    def _place(self, module: nn.Module, device: torch.device, dtype: torch.dtype, *, with_weight: bool) -> Any:
        weight, bias = self.change.weight, self.change.bias
        factors = whole = None
        if with_weight and isinstance(weight, LowRank) and isinstance(module, nn.Linear | nn.Conv2d):
            shapes = (-1, -1) if isinstance(module, nn.Linear) else (-1, -1, 1, 1)
            down = weight.down
            if weight.mid is not None or isinstance(module, nn.Linear) or down.ndim == 2:
                down = down.reshape(*down.shape[:2], *shapes[2:])
            up = weight.up.reshape(*weight.up.shape[:2], *shapes[2:])
            tensors = (down, weight.mid, up)
            factors = tuple(None if t is None else t.to(device, dtype) for t in tensors)
        elif with_weight and weight is not None:
            stored: Tensor = module.weight  # type: ignore[assignment]
            whole = weight.delta(stored.detach().to(device, torch.float32)).to(dtype)
        return factors, whole, None if bias is None else bias.to(device, dtype)

    def gain(self, module: nn.Module, x: Tensor, output: Tensor, *, with_weight: bool) -> Tensor | None:
        """What is added to the layer's output, times strength."""
        strength = _now(self.strength)
        if strength == 0:
            return None
        factors, whole, bias = self.placed(module, output, with_weight=with_weight)
        if factors is not None:
            weight = self.change.weight
            assert isinstance(weight, LowRank)
            gain = _low_rank(module, x, *factors) * (strength * weight.scale)
        elif whole is not None:
            gain = _call(module, x, whole, None) * strength
        else:
            gain = None
        if bias is not None:
            bias = bias * strength
            if isinstance(module, nn.GroupNorm | nn.Conv2d):
                bias = bias[:, None, None] if x.ndim == 4 else bias[:, None]
            gain = bias if gain is None else gain + bias
        return gain


def _low_rank(module: nn.Module, x: Tensor, down: Tensor, mid: Tensor | None, up: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return F.linear(F.linear(x, down), up)
    assert isinstance(module, nn.Conv2d)
    if mid is None:
        return F.conv2d(_convolve(module, x, down, None), up)
    return F.conv2d(_convolve(module, F.conv2d(x, down), mid, None), up)


def _convolve(module: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight, bias, module.stride, module.padding, module.dilation)


def _call(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of the layer with other weights. All of these layers are linear in their weights."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(module, nn.Conv2d):
        return _convolve(module, x, weight, bias)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, weight, bias, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)
    assert isinstance(module, nn.Embedding)
    return F.embedding(x, weight)


class _Layer:
    """A layer and the adapters on it."""

    def __init__(self, module: nn.Module, name: str, merged: bool) -> None:
        self.module, self.name = module, name
        # Position embeddings are read, not called: no hook would run.
        self.merged = merged or name.endswith("position_embedding")
        self.parts: list[_Part] = []
        self._hook: Any = None
        self._rows: slice | None = None
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}  # parameter -> original, merged; while it is on
        self._merged: dict[str, Tensor] = {}  # merged weights of the last time
        self._merged_of: tuple[Any, ...] = ()  # the weights and strengths that they were merged from

    def begin(self, rows: slice | None = None) -> None:
        self._rows = rows
        if not self.merged:
            # Before the hooks that are there: the one that offloads a streamed layer frees its weights.
            self._hook = self.module.register_forward_hook(self._add_all, prepend=True)
            return
        if getattr(self.module, "bias", None) is None and any(part.change.bias is not None for part in self.parts):
            self._hook = self.module.register_forward_hook(self._add_bias)  # there is none to merge into
        self._merge()

    def end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._restore()

    def detach(self) -> None:
        self.end()
        self._merged, self._merged_of = {}, ()
        for part in self.parts:
            part._placed, part._for = (), None

    def _add_all(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._added(module, args[0], output, with_weight=True)

    def _add_bias(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._added(module, args[0], output, with_weight=False)

    def _added(self, module: nn.Module, x: Tensor, output: Tensor, *, with_weight: bool) -> Tensor:
        if self._rows is None:
            return self._gained(module, x, output, with_weight=with_weight)
        output[self._rows] = self._gained(module, x[self._rows], output[self._rows], with_weight=with_weight)
        return output

    def _gained(self, module: nn.Module, x: Tensor, output: Tensor, *, with_weight: bool) -> Tensor:
        for part in self.parts:
            if (gain := part.gain(module, x, output, with_weight=with_weight)) is not None:
                output = output + gain
        return output

    def _merge(self) -> None:
        """Puts merged weights in place of the old ones; those of the last time if nothing has changed."""
        strengths = [_now(part.strength) for part in self.parts]
        stored: Tensor = self.module.weight  # type: ignore[assignment]
        origin = (stored.data_ptr(), stored.dtype, stored.device, *strengths)
        if self._merged_of != origin:
            self._merged_of = ()
            self._merged = dict(self._summed(strengths))
            self._merged_of = origin
        for name, merged in self._merged.items():
            param = getattr(self.module, name)
            self._kept[name] = (param.data, merged)
            param.data = merged

    @torch.no_grad()
    def _summed(self, strengths: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
        """Name and merged tensor of each parameter that changes."""
        with torch.inference_mode(mode=False):  # tensors made in inference mode cannot be changed outside it
            for name in ("weight", "bias"):
                changes = [
                    (getattr(part.change, name), strength) for part, strength in zip(self.parts, strengths, strict=True)
                ]
                summed = _sum(getattr(self.module, name, None), changes)
                if summed is None:
                    continue
                if not bool(summed.isfinite().all()):
                    where, message = self.parts[0].lora.where, f"{self.name} overflows {summed.dtype} when merged"
                    advice = "apply it at run time (lora_mode run), or use a smaller strength"
                    raise ModelFileError("overflow", where, f"{message}; {advice}")
                yield name, summed

    def _restore(self) -> None:
        for name, (original, merged) in self._kept.items():
            param = getattr(self.module, name)
            if (
                param.data_ptr() == merged.data_ptr()
            ):  # otherwise the network was onloaded again meanwhile, without the adapter
                param.data = original
        self._kept.clear()


def _sum(stored: Tensor | None, changes: Sequence[tuple[Any, float]]) -> Tensor | None:
    """A parameter with all changes, computed in float32 and rounded once; None if nothing changes.

    changes: a WeightChange for a weight, a tensor for a bias
    """
    active = [(change, strength) for change, strength in changes if change is not None and strength != 0]
    if stored is None or not active:
        return None
    base = stored.detach().float()
    total = base.clone()
    for change, strength in active:
        total += strength * (change.to(base) if isinstance(change, Tensor) else change.delta(base))
    packed = getattr(stored, "packed", None)  # its plain weight has the dtype of the file, not that of the network
    summed: Tensor = torch.empty_like(stored.detach(), dtype=packed.dtype if packed else None).copy_(total)
    return summed
