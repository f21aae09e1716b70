"""What a drawing reports: events of the engine, records in the log; and that nobody who listens can harm it."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch

from adapters.files import kohya, lora_parts, saved, target_of
from gesso.events import (
    Event,
    ModelLoaded,
    ModelLoading,
    PictureDone,
    PlanChosen,
    RecomputedInFloat32,
    StepDone,
)
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import NamedFiles
from gesso.request.parts import HiresPass, LoraUse
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, save_tiny_folder

REQUEST = TextToImageRequest(prompt="a xylophone", negative_prompt="quagmire", seed=7, num_steps=3, width=32, height=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("model") / "tiny", TINY_SD)


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smaller, and quicker to load."""
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors", upscale=False)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> NamedFiles:
    base = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    style = saved(base / "ink.safetensors", kohya(target_of(TINY_SD), lora_parts))
    word = saved(base / "mystyle.safetensors", {"emb_params": torch.randn(2, 32)})
    return NamedFiles({"lora": {"ink": style}, "embedding": {"mystyle": word}})


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    yield
    assert logging.getLogger("gesso").level == logging.NOTSET


def test_a_drawing_from_the_first_load_on(folder: Path, finder: NamedFiles):
    events: list[Event] = []
    engine = Engine("cpu", on_event=events.append)
    draw = TextToImage(engine, engine.load(folder), finder=finder)
    size = sum(tensor.nbytes for net in draw.model.parts.networks.values() for tensor in net.state_dict().values())
    loading, loaded = events
    assert loading == ModelLoading(kind="model", name="tiny")
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.kind, loaded.name, loaded.family, loaded.nbytes) == ("model", "tiny", "sd15", size)
    assert engine.load(folder) is draw.model
    assert len(events) == 2  # it stayed loaded

    request = replace(REQUEST, num_images=2, first_index=5, loras=(LoraUse(name="ink"),), prompt="a mystyle xylophone")
    pictures = list(draw(request))
    told = events[2:]
    files = [(type(one), one.kind, one.name) for one in told if isinstance(one, ModelLoading | ModelLoaded)]
    assert sorted(files, key=lambda row: row[1]) == [
        *((kind, "embedding", "mystyle") for kind in (ModelLoading, ModelLoaded)),
        *((kind, "lora", "ink") for kind in (ModelLoading, ModelLoaded)),
    ]
    drawn = [one for one in told if not isinstance(one, ModelLoading | ModelLoaded)]
    assert [(type(one), one.index) for one in drawn] == [
        *((StepDone, 5),) * 3,
        (PictureDone, 5),
        *((StepDone, 6),) * 3,
        (PictureDone, 6),
    ]
    assert {one.job for one in drawn} == {1}
    steps = [one for one in drawn if isinstance(one, StepDone)]
    assert [(one.step, one.num_steps) for one in steps] == [(1, 3), (2, 3), (3, 3)] * 2
    for picture, done in zip(pictures, (one for one in drawn if isinstance(one, PictureDone)), strict=True):
        assert (done.index, done.seed, done.notices) == (picture.index, 7, picture.notices)
        assert (done.width, done.height) == picture.image.size
        assert 0 < sum(one.seconds for one in steps if one.index == done.index) <= done.seconds


def test_a_second_pass_counts_on(mini: Path):
    engine, events = Engine("cpu"), list[StepDone]()
    draw = TextToImage(engine, engine.load(mini))
    engine.events.subscribe(events.append, StepDone)
    list(draw(replace(REQUEST, hires=HiresPass(scale=2, num_steps=4, strength=0.5))))
    assert [one.step for one in events] == [1, 2, 3, 4, 5]
    assert {one.num_steps for one in events} == {5}


def test_a_plan_is_told_where_memory_is_limited(mini: Path):
    engine, events = Engine("cpu", memory="16GiB"), list[Event]()
    draw = TextToImage(engine, engine.load(mini))
    engine.events.subscribe(events.append)
    draw.plans(REQUEST)  # only asked, not drawn
    assert events == []
    list(draw(REQUEST))
    plan = next(one for one in events if isinstance(one, PlanChosen))
    assert (plan.model, plan.budget, plan.stay) == ("tiny.safetensors", 16 * 2**30, "resident")
    assert 0 < plan.peak <= plan.budget
    assert [type(one) for one in events].index(PlanChosen) == 0


def test_a_network_recomputed_in_float32_is_an_event(mini: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """The autoencoder gives NaN in half precision, as SDXL's does in float16."""
    engine, events = Engine("cpu", "bfloat16"), list[Event]()
    model = engine.load(mini)
    decode = type(model.parts.vae).decode

    def overflowing(vae, latents):
        pixels = decode(vae, latents)
        return pixels * torch.nan if latents.dtype == torch.bfloat16 else pixels

    monkeypatch.setattr(type(model.parts.vae), "decode", overflowing)
    engine.events.subscribe(events.append, RecomputedInFloat32, PictureDone)
    with caplog.at_level(logging.INFO, logger="gesso"):
        (picture,) = TextToImage(engine, model)(REQUEST)
    notice = "the VAE produced NaN or infinity in bfloat16 and was recomputed in float32"
    recomputed, done = events
    assert recomputed == RecomputedInFloat32(job=1, index=0, network="vae", notice=notice)
    assert isinstance(done, PictureDone)
    assert done.notices == picture.notices
    assert notice in done.notices
    assert f"tiny.safetensors: {notice}" in [record.getMessage() for record in caplog.records]


def test_events_of_threads_can_be_told_apart(mini: Path):
    engine, events = Engine("cpu"), list[StepDone | PictureDone]()
    draw = TextToImage(engine, engine.load(mini))
    engine.events.subscribe(events.append, StepDone, PictureDone)
    seeds = range(6)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda seed: list(draw(replace(REQUEST, seed=seed))), seeds))
    by_job = {
        job: [type(one).__name__ for one in group]
        for job, group in groupby(sorted(events, key=lambda one: one.job), key=lambda one: one.job)
    }
    assert list(by_job) == [1, 2, 3, 4, 5, 6]
    assert set(map(tuple, by_job.values())) == {("StepDone",) * 3 + ("PictureDone",)}
    assert sorted(one.seed for one in events if isinstance(one, PictureDone)) == list(seeds)


def test_a_bad_subscriber_changes_nothing(mini: Path, caplog):
    engine = Engine("cpu")
    draw = TextToImage(engine, engine.load(mini))
    (before,) = draw(REQUEST)

    def fails(event: Event) -> None:
        raise RuntimeError("a bug of the application")

    stop = engine.events.subscribe(fails)
    with caplog.at_level(logging.ERROR, logger="gesso"):
        (after,) = draw(REQUEST)
    assert after.image.tobytes() == before.image.tobytes()
    assert len(caplog.records) == 4  # three steps and a picture
    stop()
    caplog.clear()
    list(draw(REQUEST))
    assert caplog.records == []


def test_the_log_tells_of_loading_and_drawing_and_never_of_prompts(folder: Path, finder: NamedFiles, caplog):
    with caplog.at_level(logging.DEBUG):  # of everyone
        engine = Engine("cpu", memory="16GiB")
        draw = TextToImage(engine, engine.load(folder), finder=finder)
        request = replace(REQUEST, prompt="a (xylophone:1.2) AND mystyle [quux:corge:0.5] <lora:ink:0.5> zxqwv")
        (picture,) = draw(request)
        picture.encode()
    texts = [f"{record.name} {record.getMessage()} {record.exc_text}" for record in caplog.records]
    assert not [text for text in texts for word in ("xylophone", "quagmire", "quux", "corge", "zxqwv") if word in text]
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("gesso.")]
    for begin in ("opened '", "loaded 'tiny' (model sd15): ", "loaded 'ink' (lora): ", "memory plan for tiny, job 1: "):
        assert sum(message.startswith(begin) for message in messages) == 1, begin
    assert sum(message.startswith("drew picture 0 of job 1 with tiny: 32x32, 3 steps of ") for message in messages) == 1
