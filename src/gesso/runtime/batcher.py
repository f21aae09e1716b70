"""Batching: makes the network calls of several runs, one by one or joined in one batch (continuous batching).

A run is a generator that yields `NetworkCall`s (`gesso.diffusion.calls`). Calls of equal shape to the same network can
be joined, whatever their runs' prompts, guidance, samplers, schedules and numbers of steps; LoRA, ControlNets and
IP-Adapters affect the rows of their own run alone. Rows computed in one batch may differ in their last bits from rows
computed separately, since matrix products and convolutions choose the order of their sums by the batch size; computed
separately, they are the same bit by bit. `docs/log.md` has the figures.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gesso.adapters.attaching import Attachment
from gesso.diffusion.calls import CallGenerator, NetworkCall
from gesso.runtime.cancel import CancelledError, CancelToken
from gesso.runtime.conditioning import Conditioning, ControlFunction, ControlResiduals, joined_residuals
from gesso.runtime.deep_features import DeepFeatures
from gesso.runtime.model import LoadedModel

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class UNetCaller:
    """The UNet of a model as one run calls it.

    control_function  ControlNets, T2I-Adapters and IP-Adapters, asked before each call
    adapters          LoRA on the UNet
    deep              features that the run keeps from call to call; its calls are made alone
    """

    model: LoadedModel
    control_function: ControlFunction | None = None
    adapters: Attachment | None = None
    deep: DeepFeatures | None = None

    def __call__(self, z: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """z [B, C, h, w], timestep [B], conditioning of B rows -> [B, C, h, w]"""
        adapters = self.adapters.on() if self.adapters is not None else None
        return self.model.predict(z, timestep, conditioning, self.control_function, adapters, self.deep)


@dataclass(frozen=True, eq=False)
class PictureCaller:
    """The VAE decoder or the upscaler of a model as one run calls it.  part: decode or upscale"""

    model: LoadedModel
    part: str

    def __call__(self, z: Tensor, timestep: Tensor, conditioning: None = None) -> Tensor:
        """z [B, C, h, w] -> [B, 3, H, W]; timestep and conditioning are ignored."""
        return self.model.decode(z) if self.part == "decode" else self.model.upscale(z)


def picture_call(model: LoadedModel, part: str, z: Tensor) -> NetworkCall:
    """The call that decodes latents (part "decode") or enlarges pixels ("upscale")."""
    return NetworkCall(PictureCaller(model, part), z, torch.zeros(len(z)), None)


class Run(Generic[R]):
    """A running computation, and its result or error.

    calls   the generator that computes it
    cancel  checked before each of its calls
    """

    def __init__(self, calls: CallGenerator[R], cancel: CancelToken | None = None) -> None:
        self._calls, self._cancel = calls, cancel
        self.call: NetworkCall | None = None  # that it waits for
        self.error: BaseException | None = None
        self._results: list[R] = []
        self._is_begun = False

    @property
    def is_done(self) -> bool:
        """Whether it has ended, with a result or an error."""
        return bool(self._results) or self.error is not None

    def result(self) -> R:
        """The result. Raises the error that ended the run, RuntimeError while it is running."""
        if self.error is not None:
            raise self.error
        if not self._results:
            raise RuntimeError("the run has not finished")
        return self._results[0]

    def close(self) -> None:
        """Cancels the run unless it has ended; it cleans up at once."""
        if not self.is_done:
            self.error = CancelledError()
            self._calls.close()
        self.call = None

    def advance(self, answer: Tensor | BaseException | None = None) -> None:
        """Goes on to the next call, or to the end.  answer: output of the call that it waits for, or its error"""
        if self._cancel is not None and self._cancel.is_cancelled and not isinstance(answer, BaseException):
            answer = CancelledError()
        self.call = None
        try:
            if isinstance(answer, BaseException):
                self.call = self._calls.throw(answer)
            elif not self._is_begun:
                self.call = next(self._calls)
            else:
                assert answer is not None
                self.call = self._calls.send(answer)
        except StopIteration as end:
            self._results.append(end.value)
        except Exception as error:
            self.error = error
        except BaseException as error:  # Ctrl-C: for the caller, too
            self.error = error
            raise
        self._is_begun = True


class Batcher:
    """Advances runs side by side, one network call each per step. Driven by one thread.

    runs_per_call  batch size: how many runs share a network call. 1 computes each separately, bit by bit as alone
    """

    def __init__(self, runs_per_call: int = 1) -> None:
        if runs_per_call < 1:
            raise ValueError(f"runs_per_call {runs_per_call}: expected 1 or more")
        self.runs_per_call = runs_per_call
        self._runs: list[Run[Any]] = []
        self.shared: tuple[int, ...] = ()  # by how many runs each call of the last step was shared

    def add(self, run: Run[Any]) -> None:
        """Adds a run, from the next step on."""
        self._runs.append(run)

    @property
    def runs(self) -> tuple[Run[Any], ...]:
        """The runs that have not ended."""
        return tuple(self._runs)

    def step(self) -> list[Run[Any]]:
        """Makes the call that each run waits for, and advances it to the next. -> the runs that ended in this step

        A run that fails ends with its error; other runs are not affected.
        """
        for run in self._runs:
            if run.call is None and not run.is_done:
                run.advance()
        groups = list(self._groups([run for run in self._runs if run.call is not None]))
        self.shared = tuple(len(group) for group in groups)
        for group in groups:
            self._answer(group)
        ended = [run for run in self._runs if run.is_done]
        self._runs = [run for run in self._runs if not run.is_done]
        return ended

    def complete(self, runs: Sequence[Run[R]]) -> list[R]:
        """Runs all of these to their ends, side by side. -> their results, in order

        Raises the error of the first that fails, at once; the others are cancelled then.
        """
        for run in runs:
            self.add(run)
        try:
            while any(not run.is_done for run in runs):
                for run in self.step():
                    run.result()
            return [run.result() for run in runs]
        finally:
            for run in runs:
                run.close()
            self._runs = [run for run in self._runs if not run.is_done]

    def _groups(self, waiting: Sequence[Run[Any]]) -> Iterator[list[Run[Any]]]:
        """Groups of runs whose calls are made in one batch, in their order."""
        if self.runs_per_call == 1:
            yield from ([run] for run in waiting)
            return
        groups: dict[Any, list[Run[Any]]] = {}
        for number, run in enumerate(waiting):
            assert run.call is not None
            groups.setdefault(_shape_of(run.call) or number, []).append(run)
        for group in groups.values():
            group.sort(key=_set_of)  # one set of adapters is applied once, to rows that lie side by side
            for first in range(0, len(group), self.runs_per_call):
                yield group[first : first + self.runs_per_call]

    def _answer(self, group: Sequence[Run[Any]]) -> None:
        calls = [run.call for run in group if run.call is not None]
        with torch.inference_mode():
            try:
                answers: list[Tensor | BaseException] = list(_answer_together(calls))
            except Exception as error:
                answers = [error] if len(calls) == 1 else [_answer_alone(call) for call in calls]
        for run, answer in zip(group, answers, strict=True):
            run.advance(answer)


def _answer_alone(call: NetworkCall) -> Tensor | BaseException:
    """The output of a call made alone, after its batch failed; an error is its own then."""
    try:
        return call.make()
    except Exception as error:
        return error


def _shape_of(call: NetworkCall) -> tuple[Any, ...] | None:
    """A key, equal for calls that can share a batch; None for a call that has to be made alone."""
    network = call.network
    if not isinstance(network, UNetCaller | PictureCaller):
        return None
    model, execution = network.model, network.model.execution
    if execution.watch is not None or execution.plan is not None:
        return None
    if isinstance(network, UNetCaller) and network.deep is not None:
        return None
    common = (id(model.parts), execution.float32, execution.tiling, call.z.shape[1:], call.z.dtype)
    if isinstance(network, PictureCaller):
        return (network.part, *common)
    # Merged weights are the same for all rows of a call.
    merged = network.adapters.key if network.adapters is not None and not network.adapters.is_by_row else None
    return ("unet", merged, call.conditioning.shapes, *common)


def _set_of(run: Run[Any]) -> str:
    """Equal for runs with the same set of adapters."""
    network = None if run.call is None else run.call.network
    adapters = network.adapters if isinstance(network, UNetCaller) else None
    return "" if adapters is None else repr(adapters.key)


def _answer_together(calls: Sequence[NetworkCall]) -> Sequence[Tensor]:
    """The outputs of calls with the same `_shape_of`, computed in one batch."""
    if len(calls) == 1:
        return [calls[0].make()]
    sizes = [len(call.z) for call in calls]
    z, timestep = torch.cat([call.z for call in calls]), torch.cat([call.timestep for call in calls])
    first = calls[0].network
    if isinstance(first, PictureCaller):
        return first(z, timestep).split(sizes)
    networks = [call.network for call in calls if isinstance(call.network, UNetCaller)]
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    controls = {id(control): control for network in networks for control in network.model.execution.controls.values()}
    model = networks[0].model.with_controls(
        {f"control {number}": each for number, each in enumerate(controls.values())}
    )
    output = model.predict(
        z,
        timestep,
        Conditioning.join([call.conditioning for call in calls]),
        _joined_control_function(
            [(span, network.control_function) for span, network in zip(rows, networks, strict=True)]
        ),
        _joined_adapters([(span, network.adapters) for span, network in zip(rows, networks, strict=True)], len(z)),
    )
    return output.split(sizes)


def _joined_control_function(parts: Sequence[tuple[slice, ControlFunction | None]]) -> ControlFunction | None:
    """One function that asks each for its own rows."""
    if all(function is None for _, function in parts):
        return None

    def joined(z: Tensor, timestep: Tensor, conditioning: Conditioning) -> ControlResiduals:
        residuals = [
            (rows, own(z[rows], timestep[rows], conditioning.rows(rows))) for rows, own in parts if own is not None
        ]
        return joined_residuals(residuals, len(z))

    return joined


@contextmanager
def _joined_adapters(parts: Sequence[tuple[slice, Attachment | None]], num_rows: int) -> Iterator[None]:
    """Applies each to its own rows; a set that several adjacent runs have is applied to all their rows at once."""
    spans: list[tuple[slice, Attachment]] = []
    for rows, attachment in parts:
        if attachment is None:
            continue
        if spans and spans[-1][1].key == attachment.key and spans[-1][0].stop == rows.start:
            spans[-1] = slice(spans[-1][0].start, rows.stop), attachment
        else:
            spans.append((rows, attachment))
    with ExitStack() as stack:
        for rows, attachment in spans:
            whole = rows.start == 0 and rows.stop == num_rows
            stack.enter_context(attachment.on(None if whole else rows))
        yield
