"""How much memory a step takes, and about how long, before any weight is read: counted on networks without numbers."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from gesso.families.base import Family
from gesso.families.parts import empty_networks, on_meta
from gesso.models.controlnet import ControlNet
from gesso.tuning.controlling import control_config
from gesso.tuning.factors import layers_of
from gesso.tuning.keeping import keeping_less
from gesso.tuning.learners import make_factors, text_networks, trained_networks
from gesso.tuning.optimizers import PACKAGED
from gesso.tuning.settings import TuningSettings
from gesso.tuning.task import CHECKPOINTED

SHARE_OF_PEAK = 0.75  # of the speed of large matrix products that a network reaches; measured with SD 1.5 on a CPU
BACKWARD_ALL = 2.0  # operations of the backward pass of layers that learn beside those of the forward pass
BACKWARD = 1.1  # operations of the backward pass of frozen layers beside those of the forward pass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """parameters: that are trained. nbytes: at the peak of a step.

    flops: of a step, forward and backward; row_flops: of one look at one picture without learning
    """

    parameters: int
    layers: int
    nbytes: int
    flops: float
    row_flops: float


def estimate(family: Family, settings: TuningSettings, bucket: tuple[int, int]) -> Estimate:
    """What one step needs, with pictures of one bucket, in pixels of the VAE's picture. Reads nothing."""
    networks = _networks(family)
    parameters, layers = _trained(family, networks, settings)
    rows = settings.batch_size or 1
    height, width = bucket[1] // family.vae.downscale, bucket[0] // family.vae.downscale
    x = torch.empty(rows, family.unet.in_channels, height, width, device="meta")
    context = torch.empty(rows, family.text.max_length, family.unet.context_dim, device="meta")
    added = None if not family.unet.added_dim else torch.empty(rows, family.unet.added_dim, device="meta")
    half = 2 if settings.precision == "bfloat16" else 4
    control: ControlNet | None = None
    if settings.kind == "controlnet":
        with on_meta():
            control = ControlNet(control_config(family))
        hint = torch.empty(rows, 3, height * control.config.downscale, width * control.config.downscale, device="meta")
    kept = _Kept([networks["unet"]] if control is None else [control, networks["unet"]])
    with (
        torch.enable_grad(),  # a report may ask, where gradients are off
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor),
        _Fused(),
        keeping_less(not settings.checkpointing),
    ):
        times = torch.empty(rows, device="meta")
        residuals = None if control is None else control(x, times, context, hint, added)
        loss = networks["unet"](x, times, context, added, control=residuals).sum()
    del loss
    forward = float(counter.get_total_flops())
    learning = set(trained_networks(networks, settings)) if settings.kind == "full" else set[str]()
    small = {"unet"} | (set() if settings.train_text else {"text", "text_2"})
    weights = sum(
        p.numel() * (2 if name in small and settings.base == "bfloat16" else 4)
        for name, network in networks.items()
        for p in network.parameters()
        if name not in learning  # those are among the parameters
    )
    activations = kept.checkpointed if settings.checkpointing else kept.total
    # Weights, gradient, moments and an average of what learns, and a whole model as it was; of activations what the
    # backward pass needs.
    row = PACKAGED.get(settings.optimizer)
    moments = row.moments if row is not None else 1.0 if settings.optimizer == "muon" else 2.0
    asks_before = bool(settings.prior_answers and (settings.reg or settings.class_pictures))
    remembered = int(bool(settings.prior_answers) and settings.kind == "full")
    nbytes = weights + int((3 + moments + remembered) * 4 * parameters) + activations * half // 4
    # A teacher looks twice, with the caption and without, and the student again at where it got to.
    passes = (
        (4 if settings.kind == "distil" else 1)
        + (BACKWARD_ALL if settings.kind == "full" else BACKWARD)
        + (1 if settings.checkpointing else 0)
    )
    passes += 0.5 * asks_before  # half of the rows are of the class
    if settings.preserve:  # the class without the LoRA, and with it
        passes += 1 + passes
    return Estimate(
        parameters=parameters,
        layers=layers,
        nbytes=nbytes,
        flops=forward * passes * settings.accumulation,
        row_flops=forward / rows,
    )


def trained_parameters(family: Family, settings: TuningSettings) -> int:
    """How many numbers learn: those of `estimate`, without the look at a step that makes it long."""
    return _trained(family, _networks(family), settings)[0]


def _networks(family: Family) -> dict[str, nn.Module]:
    networks = empty_networks(family, family.name)
    for network in networks.values():
        network.requires_grad_(False)
    return networks


def _trained(family: Family, networks: Mapping[str, nn.Module], settings: TuningSettings) -> tuple[int, int]:
    """How many numbers learn, and in or beside how many layers."""
    settings = replace(settings, dropout=0.0)
    if settings.kind == "embedding":
        texts = text_networks(networks)
        return (settings.vectors or 0) * sum(one.config.dim for one in texts.values()), len(texts)
    if settings.kind == "full":
        learning = trained_networks(networks, settings)
        layers = sum(1 for _ in layers_of(learning))
        return sum(p.numel() for network in learning.values() for p in network.parameters()), layers
    if settings.kind == "controlnet":
        with on_meta():
            control = ControlNet(control_config(family))
        return sum(p.numel() for p in control.parameters()), sum(1 for _ in layers_of({"control": control}))
    with on_meta():
        factors = make_factors(networks, settings, None).to("meta")
    words = (settings.vectors or 0) * sum(one.config.dim for one in text_networks(networks).values())
    return sum(p.numel() for p in factors.parameters()) + (words if settings.learn_word else 0), len(factors.layers)


class _Kept:
    """Bytes that the backward pass needs, in float32: of all, and of blocks that would be computed again."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._weights = {p.untyped_storage()._cdata for network in networks for p in network.parameters()}
        self._storages: dict[int, int] = {}
        self._alive: list[Tensor] = []  # so that no storage gets the name of another
        self._before: list[int] = []
        self._inputs = self._inside = self._largest = 0
        for module in (module for network in networks for module in network.modules()):
            if isinstance(module, CHECKPOINTED):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def keep(self, tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in self._weights:  # nor a view of one
            self._storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            self._alive.append(tensor)
        return tensor

    @property
    def total(self) -> int:
        """Of everything."""
        return sum(self._storages.values())

    @property
    def checkpointed(self) -> int:
        """With the inputs of blocks in place of what is in them, and the largest block, which is computed again."""
        return self.total - self._inside + self._inputs + self._largest

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._before.append(self.total)
        self._inputs += args[0].nbytes

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        inside = self.total - self._before.pop()
        self._inside += inside
        self._largest = max(self._largest, inside)


class _Fused(TorchFunctionMode):
    """Attention as the fused kernels of processors and cards have it, which keep no scores; without numbers, torch
    would compute it in parts.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and torch.is_grad_enabled():
            assert not any((kwargs or {}).values()), "a mask, which no network that learns pictures has"
            return _FusedAttention.apply(*args)  # type: ignore[no-untyped-call]
        return func(*args, **dict(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, the result, and a number for each query and head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = F.scaled_dot_product_attention(q, k, v)
        ctx.save_for_backward(q, k, v, result, q.new_empty(q.shape[:-1]))
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("an estimate goes forward alone")


def operations_per_second(device: torch.device, seconds: float = 0.2) -> float:
    """Floating-point operations a second of large matrix products, measured for a moment."""
    side = 4096 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.ones(side, side, device=device, dtype=dtype)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        started = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def seconds_of(flops: float, speed: float) -> float:
    """About how long so many operations of a network take. Right within a factor of two or three."""
    return flops / (speed * SHARE_OF_PEAK)
