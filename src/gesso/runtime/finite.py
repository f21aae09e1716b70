"""Numbers that are not finite: found, computed once more in float32, or an error that names what made them.

Half precision ends at 65504 (float16) or has 8 bits (bfloat16); some networks leave that range for some pictures. What
comes out then is NaN, and a tool that does not look shows it as black.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.families.parts import is_finite

if TYPE_CHECKING:
    from gesso.runtime.model import LoadedModel

SAID = {
    "text": "the text model",
    "text_2": "the second text model",
    "unet": "the UNet",
    "vae": "the autoencoder",
    "upscaler": "the upscaler",
}


class NotFiniteError(GessoError):
    """A network gave NaN or infinity, in float32 too. `part` is its name, `module` the first one inside that did."""

    def __init__(self, message: str, part: str, module: str | None) -> None:
        super().__init__(message)
        self.part, self.module = part, module


class AllLostError(Exception):
    """Raised within `run` of `rescued` to stop early: no row is finite any more. Never leaves `rescued`."""


@dataclass(frozen=True)
class Rescued:
    """What a network gave, finite in every row.

    value   in float32 where rows were computed again
    rows    these rows
    notice  what the user should know about these; None where there are none
    """

    value: Tensor
    rows: tuple[int, ...] = ()
    notice: str | None = None

    def notices(self, row: int) -> tuple[str, ...]:
        """What to say about one row."""
        return (self.notice,) if self.notice and row in self.rows else ()


def lost_rows(x: Tensor) -> Tensor:
    """Rows that hold a number that is not finite.  x [B, ...] -> bool [B]"""
    return ~torch.isfinite(x).flatten(1).all(dim=1)


def stop_when_all_lost(x: Tensor) -> None:
    """For a sampler's steps: raises AllLostError where no row of x [B, ...] is finite, so that no time is lost on it.

    A row that is lost beside others that are not keeps going: they shall come out as they would alone.
    """
    if bool(lost_rows(x).all()):
        raise AllLostError


def rescued(
    model: "LoadedModel", part: str, run: Callable[[], Tensor], *, beside: "LoadedModel | None" = None
) -> Rescued:
    """run(), and where rows of it are not finite, once more with `part` in float32, for these rows.

    part    text, text_2, unet, vae or upscaler: whose work `run` is
    run     -> [B, ...]; gives the same each time it is called (draws its noise anew)
    beside  a model whose network of that name works in `run`, too: a refiner
    The rows that were finite stay as they were, so a picture does not depend on its neighbours. Raises NotFiniteError,
    which names the first module inside whose result was not finite, where float32 does not help.
    """
    try:
        value = run()
    except AllLostError:
        value = None
    lost = None if value is None else lost_rows(value)
    if lost is not None and value is not None and not bool(lost.any()):
        return Rescued(value)
    models = [model] if beside is None else [model, beside]
    before = model.residency.dtype(part)
    if before == torch.float32:
        raise _error(models, part, run)
    with ExitStack() as stack:
        for one in models:
            stack.enter_context(one.residency.raised(part))
        try:
            again = run()
        except AllLostError:
            raise _error(models, part, run) from None
        lost = torch.ones(len(again), dtype=torch.bool, device=again.device) if lost is None else lost
        if bool((lost_rows(again) & lost).any()):
            raise _error(models, part, run)
    rows = tuple(int(row) for row in lost.nonzero())
    if value is not None:
        again = torch.where(lost.reshape(-1, *[1] * (again.ndim - 1)), again, value.to(again.dtype))
    notice = f"{SAID[part]} left the range of {_name(before)}; computed again in float32"
    return Rescued(again, rows, notice)


def _error(models: "Sequence[LoadedModel]", part: str, run: Callable[[], Tensor]) -> NotFiniteError:
    model, module = first_bad_module(models, part, run) or (models[0], None)
    inside = f" ({module} is the first of its modules that did)" if module else ""
    dtype = _name(model.residency.dtype(part))
    message = (
        f"{model.name}: {part} gave numbers that are not finite in {dtype}{inside}. "
        "The file may be damaged, or an adapter or a setting too strong"
    )
    return NotFiniteError(message, part, module)


def first_bad_module(
    models: "Sequence[LoadedModel]", part: str, run: Callable[[], Tensor]
) -> "tuple[LoadedModel, str] | None":
    """Runs once more and looks at every module of `part`, and of what steers it: the first whose result is not finite
    while what it was given is. None where there is none: then the numbers came in from elsewhere."""
    found: list[tuple[LoadedModel, str]] = []

    def look(model: "LoadedModel", name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not found and isinstance(output, Tensor) and not is_finite(output):
                given = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
                if all(is_finite(value) for value in given):
                    found.append((model, name))
                    raise _FoundError

        return hook

    with ExitStack() as stack:
        for model in models:
            for prefix, network in _networks(model, part):
                for name, module in network.named_modules():
                    if not any(True for _ in module.children()):  # leaves: the others contain them
                        handle = module.register_forward_hook(look(model, prefix + name))
                        stack.callback(handle.remove)
        with suppress(_FoundError, AllLostError):
            run()
    return found[0] if found else None


def _networks(model: "LoadedModel", part: str) -> list[tuple[str, nn.Module]]:
    """The network of that name, and those that work with it, with what stands before the names of their modules: what
    steers the UNet, a second text model."""
    components = model.residency.components
    others: Sequence[str] = model.residency.guests if part == "unet" else ()
    if part == "text" and "text_2" in components:
        others = ("text_2",)
    return [("", components[part].network), *((f"{name}: ", components[name].network) for name in others)]


class _FoundError(Exception):
    pass


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
