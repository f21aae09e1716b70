"""NaN and infinity in the output of a network: recomputed in float32, or an error that names the module at fault.

Half precision ends at 65504 (float16) or has 8 bits (bfloat16); some networks overflow it for some pictures. The output
is NaN then, which tools that do not check show as a black picture (A1111: --no-half-vae).
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gesso.diffusion.calls import CallGenerator, run_calls
from gesso.errors import GessoError
from gesso.families.parts import is_finite
from gesso.notices import Notice

if TYPE_CHECKING:
    from gesso.runtime.model import LoadedModel

log = logging.getLogger(__name__)

LABELS = {
    "text": "the text encoder",
    "text_2": "the second text encoder",
    "unet": "the UNet",
    "vae": "the VAE",
    "upscaler": "the upscaler",
}


class NotFiniteError(GessoError):
    """A network produced NaN or infinity, even in float32.  part: its name; module: the first module inside that did"""

    default_code = "not_finite"

    def __init__(self, message: str, part: str, module: str | None) -> None:
        super().__init__(message, data={"part": part, "module": module})
        self.part, self.module = part, module


class NoFiniteRowError(Exception):
    """Raised and caught within a computation of `finite` to stop it early: no row is finite any more."""


@dataclass(frozen=True)
class Finite:
    """The output of a network, finite in every row.

    value   the output; float32 if rows were recomputed
    rows    the rows that were recomputed in float32
    notice  about these rows; None if there are none
    part    the network that was recomputed: text, text_2, unet, vae, upscaler; "" for none
    """

    value: Tensor
    rows: tuple[int, ...] = ()
    notice: Notice | None = None
    part: str = ""

    def notices(self, row: int) -> tuple[Notice, ...]:
        """Notices about one row."""
        return (self.notice,) if self.notice and row in self.rows else ()


def nonfinite_rows(x: Tensor) -> Tensor:
    """Rows that contain NaN or infinity.  x [B, ...] -> bool [B]"""
    return ~torch.isfinite(x).flatten(1).all(dim=1)


def stop_when_all_nonfinite(x: Tensor) -> None:
    """Raises NoFiniteRowError if no row of x [B, ...] is finite; for a sampler's steps, to save the time of the others.

    While one row is finite the steps go on, so that it comes out as it would alone.
    """
    if bool(nonfinite_rows(x).all()):
        raise NoFiniteRowError


def finite(part: str, compute: Callable[..., Tensor], *models: "LoadedModel") -> Finite:
    """compute(*models); rows that are not finite are recomputed with `part` in float32.

    As `finite_calls`, for a computation that makes its calls itself.
    """

    def calls(*models: "LoadedModel") -> CallGenerator[Tensor]:
        yield from ()  # asks for nothing
        return compute(*models)

    return run_calls(finite_calls(part, calls, *models))


def finite_calls(
    part: str, compute: Callable[..., CallGenerator[Tensor]], *models: "LoadedModel"
) -> CallGenerator[Finite]:
    """compute(*models); rows that are not finite are recomputed with `part` in float32.

    part     the network that computes: text, text_2, unet, vae or upscaler
    compute  -> [B, ...]; returns the same each time it is called (draws its noise anew), and uses the models that it
             is passed
    models   the models whose network `part` it uses: a model, and perhaps its refiner
    Rows that were finite are not changed, so a picture does not depend on the others of its batch. Raises
    NotFiniteError, with the first module whose output was not finite, if float32 does not help.
    """
    value: Tensor | None = None
    with suppress(NoFiniteRowError):
        value = yield from compute(*models)
    nonfinite = None if value is None else nonfinite_rows(value)
    if nonfinite is not None and value is not None and not bool(nonfinite.any()):
        return Finite(value)
    dtype = models[0].dtype(part)
    if dtype == torch.float32:
        raise (yield from _error(part, compute, models))
    in_float32 = [model.in_float32(part) for model in models]
    recomputed: Tensor | None = None
    with suppress(NoFiniteRowError):
        recomputed = yield from compute(*in_float32)
    if recomputed is not None and nonfinite is None:
        nonfinite = torch.ones(len(recomputed), dtype=torch.bool, device=recomputed.device)
    if recomputed is None or nonfinite is None or bool((nonfinite_rows(recomputed) & nonfinite).any()):
        raise (yield from _error(part, compute, in_float32))
    rows = tuple(int(row) for row in nonfinite.nonzero())
    if value is not None:
        recomputed = torch.where(
            nonfinite.reshape(-1, *[1] * (recomputed.ndim - 1)), recomputed, value.to(recomputed.dtype)
        )
    text = f"{LABELS[part]} produced NaN or infinity in {_name(dtype)} and was recomputed in float32"
    notice = Notice(text, code="recomputed_in_float32", data={"part": part, "dtype": _name(dtype)})
    log.info("%s: %s", models[0].name, notice)
    return Finite(recomputed, rows, notice, part)


def _error(
    part: str, compute: Callable[..., CallGenerator[Tensor]], models: "Sequence[LoadedModel]"
) -> Generator[Any, Tensor, NotFiniteError]:
    model, module = (yield from first_bad_module(part, compute, models)) or (models[0], None)
    inside = f" (first in module {module})" if module else ""
    dtype = _name(model.dtype(part))
    message = (
        f"{model.name}: {LABELS[part]} produced NaN or infinity in {dtype}{inside}. "
        "The file may be damaged, or the weight of an adapter or a setting too high"
    )
    return NotFiniteError(message, part, module)


def first_bad_module(
    part: str, compute: Callable[..., CallGenerator[Tensor]], models: "Sequence[LoadedModel]"
) -> "Generator[Any, Tensor, tuple[LoadedModel, str] | None]":
    """Computes once more and checks every module of `part`, and of its control networks: the first whose output is not
    finite although its inputs are. None if there is none: then NaN or infinity came in from elsewhere."""
    bad: list[tuple[LoadedModel, str]] = []

    def check_outputs(model: "LoadedModel", name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not bad and isinstance(output, Tensor) and not is_finite(output):
                tensors = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
                if all(is_finite(value) for value in tensors):
                    bad.append((model, name))
                    raise _FirstBad

        return hook

    @contextmanager
    def watching(model: "LoadedModel") -> Iterator[None]:
        with ExitStack() as stack:
            for prefix, network in _networks(model, part):
                for name, module in network.named_modules():
                    if not any(True for _ in module.children()):  # leaf modules
                        stack.callback(module.register_forward_hook(check_outputs(model, prefix + name)).remove)
            yield

    with suppress(_FirstBad, NoFiniteRowError):
        yield from compute(*(model.with_watch(watching) for model in models))
    return bad[0] if bad else None


def _networks(model: "LoadedModel", part: str) -> list[tuple[str, nn.Module]]:
    """The network `part` and those that compute with it (control networks of the UNet, a second text encoder), each
    with a prefix for the names of its modules."""
    components = dict(model.residency.components)
    others: list[tuple[str, nn.Module]] = []
    if part == "unet":
        others = [(f"{name}: ", control.network) for name, control in model.execution.controls.items()]
    if part == "text" and "text_2" in components:
        others = [("text_2: ", components["text_2"].network)]
    return [("", components[part].network), *others]


class _FirstBad(Exception):  # noqa: N818  # not an error: it ends the search
    pass


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
