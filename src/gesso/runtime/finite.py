"""Numbers that are not finite: noticed, computed once more in float32, or an error that names what made them.

Half precision ends at 65504 (float16) or has 8 bits (bfloat16); some networks leave that range for some pictures. What
comes out then is NaN, and a tool that does not look shows it as black.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gesso.diffusion.calls import Asking, answered
from gesso.errors import GessoError
from gesso.families.parts import is_finite
from gesso.notices import Notice

if TYPE_CHECKING:
    from gesso.runtime.model import LoadedModel

log = logging.getLogger(__name__)

LABELS = {
    "text": "the text model",
    "text_2": "the second text model",
    "unet": "the UNet",
    "vae": "the autoencoder",
    "upscaler": "the upscaler",
}


class NotFiniteError(GessoError):
    """A network gave NaN or infinity, in float32 too. `part` is its name, `module` the first one inside that did."""

    default_code = "not_finite"

    def __init__(self, message: str, part: str, module: str | None) -> None:
        super().__init__(message, data={"part": part, "module": module})
        self.part, self.module = part, module


class AllLostError(Exception):
    """Raised within a computation of `finite` to stop it early: no row is finite any more. Never leaves it."""


@dataclass(frozen=True)
class Finite:
    """What a network gave, finite in every row.

    value   in float32 where rows were computed again
    rows    these rows
    notice  what the user should know about these; None where there are none
    part    the network that was computed again: text, text_2, unet, vae, upscaler; "" where none was
    """

    value: Tensor
    rows: tuple[int, ...] = ()
    notice: Notice | None = None
    part: str = ""

    def notices(self, row: int) -> tuple[Notice, ...]:
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


def finite(part: str, compute: Callable[..., Tensor], *models: "LoadedModel") -> Finite:
    """compute(*models), and where rows of it are not finite, once more with `part` in float32, for these rows.

    As `asking_finite`, for a computation that makes its calls itself.
    """

    def asking(*models: "LoadedModel") -> Asking[Tensor]:
        yield from ()  # asks for nothing
        return compute(*models)

    return answered(asking_finite(part, asking, *models))


def asking_finite(part: str, compute: Callable[..., Asking[Tensor]], *models: "LoadedModel") -> Asking[Finite]:
    """compute(*models), and where rows of it are not finite, once more with `part` in float32, for these rows.

    part     text, text_2, unet, vae or upscaler: whose work it is
    compute  -> [B, ...]; gives the same each time it is called (draws its noise anew); it is given the models as they
             are to be used, so it must use those
    models   those whose network of that name works in it: a model, and perhaps its refiner
    The rows that were finite stay as they were, so a picture does not depend on its neighbours. Raises NotFiniteError,
    which names the first module inside whose result was not finite, where float32 does not help.
    """
    value: Tensor | None = None
    with suppress(AllLostError):
        value = yield from compute(*models)
    lost = None if value is None else lost_rows(value)
    if lost is not None and value is not None and not bool(lost.any()):
        return Finite(value)
    before = models[0].dtype(part)
    if before == torch.float32:
        raise (yield from _error(part, compute, models))
    wide = [model.in_float32(part) for model in models]
    again: Tensor | None = None
    with suppress(AllLostError):
        again = yield from compute(*wide)
    if again is not None and lost is None:
        lost = torch.ones(len(again), dtype=torch.bool, device=again.device)
    if again is None or lost is None or bool((lost_rows(again) & lost).any()):
        raise (yield from _error(part, compute, wide))
    rows = tuple(int(row) for row in lost.nonzero())
    if value is not None:
        again = torch.where(lost.reshape(-1, *[1] * (again.ndim - 1)), again, value.to(again.dtype))
    text = f"{LABELS[part]} left the range of {_name(before)}; computed again in float32"
    notice = Notice(text, code="numbers_rescued", data={"part": part, "dtype": _name(before)})
    log.info("%s: %s", models[0].name, notice)
    return Finite(again, rows, notice, part)


def _error(
    part: str, compute: Callable[..., Asking[Tensor]], models: "Sequence[LoadedModel]"
) -> Generator[Any, Tensor, NotFiniteError]:
    model, module = (yield from first_bad_module(part, compute, models)) or (models[0], None)
    inside = f" ({module} is the first of its modules that did)" if module else ""
    dtype = _name(model.dtype(part))
    message = (
        f"{model.name}: {part} gave numbers that are not finite in {dtype}{inside}. "
        "The file may be damaged, or an adapter or a setting too strong"
    )
    return NotFiniteError(message, part, module)


def first_bad_module(
    part: str, compute: Callable[..., Asking[Tensor]], models: "Sequence[LoadedModel]"
) -> "Generator[Any, Tensor, tuple[LoadedModel, str] | None]":
    """Computes once more and looks at every module of `part`, and of what steers it: the first whose result is not
    finite while what it was given is. None where there is none: then the numbers came in from elsewhere."""
    bad: list[tuple[LoadedModel, str]] = []

    def look(model: "LoadedModel", name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not bad and isinstance(output, Tensor) and not is_finite(output):
                given = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
                if all(is_finite(value) for value in given):
                    bad.append((model, name))
                    raise _FirstBad

        return hook

    @contextmanager
    def watching(model: "LoadedModel") -> Iterator[None]:
        with ExitStack() as stack:
            for prefix, network in _networks(model, part):
                for name, module in network.named_modules():
                    if not any(True for _ in module.children()):  # leaves: the others contain them
                        stack.callback(module.register_forward_hook(look(model, prefix + name)).remove)
            yield

    with suppress(_FirstBad, AllLostError):
        yield from compute(*(model.watched(watching) for model in models))
    return bad[0] if bad else None


def _networks(model: "LoadedModel", part: str) -> list[tuple[str, nn.Module]]:
    """The network of that name, and those that work with it, with what stands before the names of their modules: what
    steers the UNet, a second text model."""
    components = dict(model.residency.components)
    others: list[tuple[str, nn.Module]] = []
    if part == "unet":
        others = [(f"{name}: ", control.network) for name, control in model.execution.controls.items()]
    if part == "text" and "text_2" in components:
        others = [("text_2: ", components["text_2"].network)]
    return [("", components[part].network), *others]


class _FirstBad(Exception):  # noqa: N818  # no error: what ends the search
    pass


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
