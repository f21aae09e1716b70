"""Factors of a LoRA in training (Hu et al. 2021, arXiv:2106.09685) beside frozen layers, and which layers get them.

The factors are added to the layers' outputs by hooks, as `gesso.adapters` adds those of a file at run time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gesso.adapters.lora import ModuleChange
from gesso.errors import GessoError, short
from gesso.nn.attention import SpatialTransformer
from gesso.nn.resblock import ResBlock
from gesso.training.task import generator_for
from gesso.tuning.layer_factors import Factors, Layer, LayerFactors, is_wide

ChooseRank = Callable[[str, Layer], int]  # (name of a layer, layer) -> its rank; 0: it is left alone
Make = Callable[[str, Layer, int], LayerFactors]  # (name, layer, rank) -> what learns beside it


class LoraFactors(nn.Module):
    """Factors beside layers of networks, in effect from now on.

    networks   by component name as in an adapter's `Target`: unet, text, text_2
    rank       of every linear layer and convolution, or a function that chooses
    make       makes those of a layer; None: LoRA, from torch's own random numbers
    dropout    share of a layer's inputs that its factors do not see in training; which, follows from `step_seed`
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        rank: int | ChooseRank,
        *,
        make: Make | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.names = dict[str, str]()  # of a layer, by its name here, which may hold no dots
        self.layers = nn.ModuleDict()
        self.dropout = dropout
        self.is_off = False
        self.step_seed: tuple[int, int] = (0, 0)  # of the masks of the dropout
        self.rows: tuple[tuple[int, ...], int] = ((), 0)  # of a batch that this process has, and of how many
        for name, layer in layers_of(networks):
            size = rank(name, layer) if callable(rank) else rank
            if size == 0:
                continue
            self.names[key := name.replace(".", "/")] = name
            factors = Factors(layer, size) if make is None else make(name, layer, size)
            self.layers[key] = factors
            layer.register_forward_hook(self._hook(len(self.names), factors, parted=name.startswith("unet.")))

    def _hook(
        self, number: int, factors: LayerFactors, *, parted: bool
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """parted: the layer sees a row for each picture; text encoders see one caption at a time."""

        def added(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self.is_off:
                return output
            x = args[0]
            if self.dropout and factors.training and torch.is_grad_enabled():
                # From (seed, step, layer) and nothing else: a checkpointed layer computes again with the same mask.
                generator = generator_for(*self.step_seed, number, device=x.device)
                rows, count = self.rows
                is_part = parted and len(rows) == len(x) < count
                shape = (count, *x.shape[1:]) if is_part else x.shape
                kept = torch.rand(shape, generator=generator, device=x.device) >= self.dropout
                kept = kept[list(rows)] if is_part else kept
                x = x * kept.to(x.dtype) / (1 - self.dropout)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            return output + factors(layer, x, output)

        return added

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the networks are as without factors."""
        self.is_off = True
        try:
            yield
        finally:
            self.is_off = False

    def changes(self) -> dict[str, ModuleChange]:
        """The factors as weight changes, as `adapters.lora` reads them from a file."""
        return {name: ModuleChange(factors.change()) for name, factors in self.items()}

    def items(self) -> Iterator[tuple[str, LayerFactors]]:
        """The factors by their layers' names."""
        for key, factors in self.layers.items():
            assert isinstance(factors, LayerFactors)
            yield self.names[key], factors


def layers_of(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, Layer]]:
    """Every linear layer and convolution of networks, with "<component>.<module>"."""
    for component, network in networks.items():
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield f"{component}.{name}", module


def chooser(rank: int, conv_rank: int, networks: Mapping[str, nn.Module]) -> Callable[[str, nn.Module], int]:
    """Which layers get factors, by the rules of kohya's trainer.

    rank       of linear layers of transformers (attention, feed-forward, projections) and of text encoders
    conv_rank  of 3 x 3 convolutions of residual blocks and between levels; where it is not 0, the linear layers of
               residual blocks get `rank` as well
    """
    attention, others = list[str](), list[str]()
    for component, network in networks.items():
        for name, module in network.named_modules():
            if component != "unet":
                continue
            whole = f"unet.{name}."
            if isinstance(module, SpatialTransformer) or name == "draft":
                attention.append(whole)
            elif isinstance(module, ResBlock) or name.endswith(("downsample", "upsample")):
                others.append(whole)

    def choose(name: str, layer: nn.Module) -> int:
        if not name.startswith("unet."):
            return 0 if name.endswith(".projection") else rank
        if any(name.startswith(one) for one in attention):
            return rank
        if conv_rank and any(f"{name}.".startswith(one) for one in others):
            return conv_rank if is_wide(layer) else rank
        return 0

    return choose


class Blocks:
    """Values of blocks of the networks, as "down.1=8", "mid=32" or "text=4" say them; the longest name counts.

    Names: `down`, `mid`, `up` and `draft` of the UNet, also one level of it (`down.0` is the finest, `up.0` the
    coarsest), and `text`. setting: for messages. Raises GessoError for a text of another form.
    """

    def __init__(self, texts: Sequence[str], setting: str, low: float, high: float) -> None:
        self.setting = setting
        self.values: dict[str, float] = {}
        for text in texts:
            name, _, number = text.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not name.strip() or not low <= value <= high:
                raise self._refused(text, f"a block and a number of {low:g} to {high:g}, such as down.1=8")
            self.values[name.strip()] = value

    def check(self, layers: Sequence[str]) -> None:
        """Raises GessoError for a block without any of the layers."""
        names = [_block_name(name) for name in layers]
        for block in self.values:
            if not any(f"{name}.".startswith(f"{block}.") for name in names):
                levels = {".".join(name.split(".")[:2]) for name in names if name.startswith(("down.", "up."))}
                known = sorted({name.partition(".")[0] for name in names} | levels)
                raise self._refused(block, f"one of {', '.join(known)}")

    def __call__(self, layer: str) -> float | None:
        """The value for a layer; None: it has none of its own."""
        name = _block_name(layer)
        matching = [block for block in self.values if f"{name}.".startswith(f"{block}.")]
        return self.values[max(matching, key=len)] if matching else None

    def _refused(self, value: str, expected: str) -> GessoError:
        return GessoError(
            f"`{self.setting}` {short(value)}: expected {expected}", code="invalid_value", field=self.setting
        )


def _block_name(layer: str) -> str:
    """The UNet's blocks by their own names; both text encoders are `text`."""
    component, _, module = layer.partition(".")
    return module if component == "unet" else f"text.{module}"
