"""One resident model serves any number of threads, and runs may share calls: every picture as it comes out alone."""

import random
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters.files import kohya, lora_parts, saved, target_of
from asking import changed
from families.test_control_network import theirs
from gesso.adapters.attaching import Attachment
from gesso.diffusion.calls import CallGenerator, NetworkCall
from gesso.errors import GessoError
from gesso.families.control_network import control_unet
from gesso.pipelines.hint_pictures import hint_digest
from gesso.pipelines.picture import Picture, Progress
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.conventions import Conventions
from gesso.request.finder import NamedFiles
from gesso.request.parts import ControlUse, LoraUse
from gesso.request.request import TextToImageRequest
from gesso.runtime.batcher import Batcher, Run, UNetCaller
from gesso.runtime.cancel import CancelledError, CancelToken
from gesso.runtime.engine import Engine
from gesso.runtime.model import LoadedModel
from gesso.runtime.plan import MemoryPlan, Phase
from models.test_ip_adapter import VISION, image_prompt_file, randomise
from pipelines.test_controls import picture
from tiny_sd import TINY_SD, save_tiny_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

SIZE = 64
HINT, SOURCE = picture(1, (2 * SIZE, SIZE)), picture(2, (2 * SIZE, SIZE))
BASE = TextToImageRequest(prompt="a cat", seed=1, num_steps=2, width=SIZE, height=SIZE)
WIDE = replace(BASE, width=2 * SIZE)  # where rows go alone: a single place is too little for the norms of the middle
EDGES = ControlUse(model="edges", image=hint_digest(HINT))
STYLE = LoraUse(name="style", weight=0.5)


@dataclass(frozen=True)
class Mix:
    """A request, what goes with it, and by which plan it runs."""

    request: TextToImageRequest
    hints: tuple[Any, ...] = ()
    image: Any = None
    stay: str | None = None


MIXES = {
    "plain": Mix(BASE),
    "unguided": Mix(replace(WIDE, guidance_scale=1.0, seed=2)),
    "lora": Mix(replace(BASE, loras=(STYLE,))),
    "two loras": Mix(replace(BASE, loras=(STYLE, LoraUse(name="other", weight=-0.4)), sampler="heun")),
    "merged": Mix(changed(BASE, loras=(STYLE,), lora_mode="merged")),
    "rising": Mix(replace(BASE, loras=(LoraUse(name="style", weight=1.0, points=((0.0, 0.0), (1.0, 1.0))),))),
    "word": Mix(replace(BASE, prompt="a cat mystyle")),
    "control": Mix(replace(BASE, controls=(EDGES,)), (HINT,)),
    "control and lora": Mix(replace(BASE, controls=(replace(EDGES, weight=0.5),), loras=(STYLE,)), (HINT,)),
    "picture": Mix(replace(BASE, controls=(ControlUse(model="ip", image=hint_digest(HINT)),)), (HINT,)),
    "tiling": Mix(replace(BASE, tiling="xy", seed=3)),
    "tiles": Mix(changed(BASE, width=2 * SIZE, tile=SIZE)),
    "image": Mix(changed(BASE, strength=0.7), image=SOURCE),
    "changing": Mix(replace(BASE, prompt="a [cat:dog:0.5] AND a tree", sampler="ddim_cfgpp")),
    "turns": Mix(replace(WIDE, loras=(STYLE,)), stay="turns"),
    "stream": Mix(replace(WIDE, controls=(EDGES,)), (HINT,), stay="stream"),
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("cpu", "float32")


@pytest.fixture(scope="module")
def draw(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    base = tmp_path_factory.mktemp("threads")
    model = engine.load(save_tiny_folder(base / "model", TINY_SD))
    target = target_of(TINY_SD)
    loras = {}
    for seed, name in enumerate(("style", "other")):
        torch.manual_seed(seed)
        loras[name] = saved(base / f"{name}.safetensors", kohya(target, lora_parts))
    words = {"mystyle": saved(base / "mystyle.safetensors", {"emb_params": torch.randn(2, 32)})}
    theirs(replace(TINY_SD, unet=control_unet(TINY_SD))).save_pretrained(base / "edges")
    controls = {"edges": base / "edges", "ip": saved(base / "ip.safetensors", image_prompt_file("base", TINY_SD))}
    torch.manual_seed(0)
    encoder = randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)))
    encoders = {"vit": saved(base / "vit.safetensors", encoder.state_dict())}
    return TextToImage(
        engine,
        model,
        finder=NamedFiles({"lora": loras, "embedding": words, "control": controls, "image_encoder": encoders}),
    )


@pytest.fixture(autouse=True)
def nothing_left(draw: TextToImage) -> Iterator[None]:
    """Whatever ran, the networks are as they were, bit by bit, and without a hook."""
    networks = draw.model.parts.networks

    def state() -> dict[str, Tensor]:
        with draw.model.using(*networks):
            return {f"{n}.{k}": t.clone() for n, net in networks.items() for k, t in net.state_dict().items()}

    before = state()
    yield
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in networks.values() for m in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state().items())


def under(draw: TextToImage, mix: Mix) -> TextToImage:
    if mix.stay is None:
        return draw
    phases = (Phase(name="unet", weights=0, activations=0),)
    plan = MemoryPlan(budget=None, base=0, stay=mix.stay, unet_rows=1, vae_rows=1, tile=None, phases=phases)  # type: ignore[arg-type]
    return TextToImage(draw.engine, draw.model.with_plan(plan), finder=draw.finder)


def drawn(draw: TextToImage, name: str, **more: Any) -> np.ndarray:
    mix = MIXES[name]
    (only,) = under(draw, mix)(mix.request, image=mix.image, hints=mix.hints, **more)
    return np.asarray(only.image)


@pytest.fixture(scope="module")
def alone(draw: TextToImage) -> dict[str, np.ndarray]:
    pictures = {name: drawn(draw, name) for name in MIXES}
    assert len({picture.tobytes() for picture in pictures.values()}) >= len(MIXES) - 1  # run time and merged may agree
    return pictures


class _BrokenError(Exception):
    pass


@pytest.mark.parametrize("num_mixes", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_threads_draw_what_each_draws_alone(draw: TextToImage, alone: dict[str, np.ndarray], num_mixes: int):
    """Random mixes from 4 threads, some of which fail or are cancelled at a random step."""
    rng = random.Random(0)
    hows = ["draw"] * 4 + ["fail", "cancel"]
    work = [(rng.choice(sorted(MIXES)), rng.choice(hows), rng.randrange(2)) for _ in range(num_mixes)]
    lock, problems, counts = threading.Lock(), list[str](), {"draw": 0, "fail": 0, "cancel": 0}
    tasks = iter(work)

    def one(name: str, how: str, step: int) -> str | None:
        token = CancelToken()

        def interrupt(state: Progress) -> None:
            if state.step == step and how == "fail":
                raise _BrokenError
            if state.step == step and how == "cancel":
                token.cancel()

        try:
            found = drawn(draw, name, on_progress=interrupt, cancel=token)
        except _BrokenError:
            return None if how == "fail" else "failed"
        except CancelledError:
            return None if how == "cancel" else "was cancelled"
        if how != "draw":
            return f"went on after {how} at step {step}"
        return None if np.array_equal(found, alone[name]) else "not the picture"

    def worker() -> None:
        while True:
            with lock:
                task = next(tasks, None)
            if task is None:
                return
            try:
                problem = one(*task)
            except Exception as error:
                problem = repr(error)
            with lock:
                counts[task[1]] += 1
                if problem:
                    problems.append(f"{task}: {problem}")

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sum(counts.values()) == num_mixes and min(counts.values()) > num_mixes // 10


def test_a_token_ends_the_drawing_from_another_thread(draw: TextToImage):
    token, begun = CancelToken(), threading.Event()
    thread = threading.Thread(target=lambda: (begun.wait(), token.cancel()))
    thread.start()
    steps: list[int] = []

    def progress(state: Progress) -> None:
        steps.append(state.step)
        begun.set()
        thread.join()

    with pytest.raises(CancelledError):
        list(draw(replace(BASE, num_steps=50), progress, cancel=token))
    assert steps == [0]  # it ends before the first call
    with pytest.raises(CancelledError):
        token.check()


def test_a_token_that_was_used_up_draws_nothing(draw: TextToImage):
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        next(draw(BASE, cancel=token))


# ---- the batcher -----------------------------------------------------------------------------------------------------

UNLIKE = {
    "euler": replace(BASE, sampler="euler", num_steps=5),
    "other prompt": replace(BASE, prompt="a dog in the rain", negative_prompt="grass", seed=5),
    "heun": replace(BASE, sampler="heun", num_steps=3, schedule="karras"),
    "strong": replace(BASE, guidance_scale=9.0, guidance_rescale=0.5, seed=8),
    "sde": replace(BASE, sampler="dpmpp_sde", num_steps=2, seed=9),
    "lora": replace(BASE, loras=(STYLE,), num_steps=4),
    "other lora": replace(BASE, loras=(LoraUse(name="other", weight=1.0),), sampler="ddim"),
    "control": replace(BASE, controls=(EDGES,), seed=11),
    "picture": replace(BASE, controls=(ControlUse(model="ip", image=hint_digest(HINT)),), seed=12),
    "rising": MIXES["rising"].request,
}


def unlike_runs(draw: TextToImage) -> list[Run[Picture]]:
    return [run for request in UNLIKE.values() for run in draw.runs(request, hints=(HINT,) if request.controls else ())]


@pytest.fixture(scope="module")
def unlike_alone(draw: TextToImage) -> list[np.ndarray]:
    return [
        np.asarray(next(draw(request, hints=(HINT,) if request.controls else ())).image) for request in UNLIKE.values()
    ]


def calls_of(model: LoadedModel) -> tuple[list[int], Callable[[], None]]:
    """Rows of each call of the UNet from now on, and what stops the watching."""
    rows: list[int] = []
    hook = model.parts.unet.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    return rows, hook.remove


def test_runs_side_by_side_are_the_same_bit_by_bit_where_rows_are_computed_apart(
    draw: TextToImage, unlike_alone: list[np.ndarray]
):
    rows, stop = calls_of(draw.model)
    pictures = Batcher().complete(unlike_runs(draw))
    stop()
    assert set(rows) == {2}  # guided and unguided
    for name, one, expected in zip(UNLIKE, pictures, unlike_alone, strict=True):
        assert np.array_equal(np.asarray(one.image), expected), name


def test_runs_that_share_calls_are_the_same_within_a_level(draw: TextToImage, unlike_alone: list[np.ndarray]):
    rows, stop = calls_of(draw.model)
    pictures = Batcher(runs_per_call=8).complete(unlike_runs(draw))
    stop()
    assert max(rows) == 16 and len(rows) < 20  # apart they are twice as many
    for name, one, expected in zip(UNLIKE, pictures, unlike_alone, strict=True):
        gap = np.abs(np.asarray(one.image).astype(int) - expected.astype(int))
        assert gap.max() <= 1, (name, gap.max())
        assert (gap > 0).mean() < 0.01, name


@pytest.mark.parametrize("mode", [None, "merged"], ids=["by row", "merged"])
@pytest.mark.sampled(2)
def test_requests_with_the_same_set_of_loras_share_calls(draw: TextToImage, mode: Any, monkeypatch: pytest.MonkeyPatch):
    """Each request reads its own adapters; an equal set is applied once a call, to rows side by side."""
    with_mode = Conventions(lora_mode=mode)
    other = LoraUse(name="other", weight=1.0)
    sets = ((STYLE,), (other,), (STYLE,), (STYLE, other), (STYLE,), (other, STYLE))
    asked = [
        replace(BASE, loras=uses, seed=number, conventions=with_mode, num_steps=2) for number, uses in enumerate(sets)
    ]
    alone = [np.asarray(next(draw(request)).image) for request in asked]
    rows, stop = calls_of(draw.model)
    applied: list[slice | None] = []
    begin = Attachment.begin

    def counted(self: Attachment, where: slice | None = None) -> None:
        if "unet" in self._networks:
            applied.append(where)
        begin(self, where)

    monkeypatch.setattr(Attachment, "begin", counted)
    drawn = Batcher(runs_per_call=8).complete([run for request in asked for run in draw.runs(request)])
    stop()
    for one, expected in zip(drawn, alone, strict=True):
        gap = np.abs(np.asarray(one.image).astype(int) - expected.astype(int))
        assert gap.max() <= 1 and (gap > 0).mean() < 0.01
    if mode is None:
        assert rows == [12, 12]  # two rows of each of six in one call a step
        assert len(applied) == 2 * 3 and {each.stop - each.start for each in applied if each} == {2, 4, 6}
    else:  # a merged set is that of all rows: a call for each set
        assert sorted(rows) == sorted([6, 2, 4] * 2) and applied.count(None) == 6


def test_a_run_joins_and_leaves_between_steps(draw: TextToImage, unlike_alone: list[np.ndarray]):
    batcher = Batcher()
    waiting = iter(unlike_runs(draw))
    under_way: dict[int, int] = {}
    ended: list[tuple[int, Run[Any]]] = []
    while len(ended) < len(UNLIKE):
        if (run := next(waiting, None)) is not None:
            under_way[id(run)] = len(under_way)
            batcher.add(run)
        ended += [(under_way[id(run)], run) for run in batcher.step()]
    assert [place for place, _ in ended] != sorted(place for place, _ in ended)  # short runs overtake long ones
    for place, run in ended:
        assert np.array_equal(np.asarray(run.result().image), unlike_alone[place])
    assert batcher.runs == ()


def test_one_that_is_cancelled_or_fails_leaves_the_others_alone(draw: TextToImage, unlike_alone: list[np.ndarray]):
    token = CancelToken()

    def breaking(state: Progress) -> None:
        if state.step == 1:
            token.cancel()
            raise _BrokenError

    runs = unlike_runs(draw)
    (cancelled,), (broken,) = draw.runs(BASE, cancel=token), draw.runs(BASE, breaking)
    batcher = Batcher(runs_per_call=4)
    for run in (cancelled, *runs, broken):
        batcher.add(run)
    while batcher.runs:
        batcher.step()
    with pytest.raises(CancelledError):
        cancelled.result()
    with pytest.raises(_BrokenError):
        broken.result()
    for name, run, expected in zip(UNLIKE, runs, unlike_alone, strict=True):
        assert np.abs(np.asarray(run.result().image).astype(int) - expected.astype(int)).max() <= 1, name


@pytest.mark.slow
def test_a_batch_that_fails_is_computed_run_by_run(
    draw: TextToImage, unlike_alone: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    """As where it needs more memory than there is: nobody loses a picture for having had company."""
    predict = LoadedModel.predict

    def small(self: LoadedModel, z: Tensor, *given: Any, **options: Any) -> Tensor:
        if len(z) > 2:
            raise torch.OutOfMemoryError("too large")
        return predict(self, z, *given, **options)

    monkeypatch.setattr(LoadedModel, "predict", small)
    for run, expected in zip(Batcher(8).complete(unlike_runs(draw)), unlike_alone, strict=True):
        gap = np.abs(np.asarray(run.image).astype(int) - expected.astype(int))
        assert gap.max() <= 1  # decoded together all the same


def test_a_run_that_is_given_up_cleans_up():
    cleaned: list[bool] = []

    def calls() -> CallGenerator[int]:
        try:
            yield NetworkCall(lambda z, timestep, conditioning: z, torch.zeros(1), torch.zeros(1), None)
            yield NetworkCall(lambda z, timestep, conditioning: z, torch.zeros(1), torch.zeros(1), None)
        finally:
            cleaned.append(True)
        return 1

    run, batcher = Run(calls()), Batcher()
    batcher.add(run)
    batcher.step()
    assert not run.is_done
    with pytest.raises(RuntimeError, match="not finished"):
        run.result()
    run.close()
    assert cleaned == [True]
    with pytest.raises(CancelledError):
        run.result()
    assert batcher.step() == [run]


def test_an_error_of_a_call_reaches_the_run_where_it_waits():
    def fails(*_: Any) -> Tensor:
        raise GessoError("no")

    def calls() -> CallGenerator[str]:
        try:
            yield NetworkCall(fails, torch.zeros(1), torch.zeros(1), None)
        except GessoError as error:
            return error.message
        return "nothing"

    assert Batcher().complete([Run(calls())]) == ["no"]
    with pytest.raises(ValueError, match="expected 1 or more"):
        Batcher(0)


def test_pictures_of_several_rows_a_call_are_those_of_one(draw: TextToImage, engine: Engine):
    request = replace(BASE, num_images=3, loras=(STYLE,))
    apart = [np.asarray(one.image) for one in draw(request)]
    engine.rows_per_call = 3
    try:
        rows, stop = calls_of(draw.model)
        together = [np.asarray(one.image) for one in draw(request)]
        stop()
    finally:
        engine.rows_per_call = 1
    assert rows == [6, 6]
    for ours, other in zip(together, apart, strict=True):
        assert np.abs(ours.astype(int) - other.astype(int)).max() <= 1


def test_a_caller_makes_its_call_alone(draw: TextToImage):
    """The network of a call is what computes it, with or without a batcher."""
    (run,) = draw.runs(BASE)
    run.advance()
    assert run.call is not None
    assert isinstance(run.call.network, UNetCaller)
    with torch.inference_mode():
        assert run.call.make().shape == run.call.z.shape
    run.close()
