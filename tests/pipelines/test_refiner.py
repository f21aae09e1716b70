"""SDXL and its refiner: in limited memory one at a time; numbers that leave half precision in any of their networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from asking import changed
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.runtime.finite import NotFiniteError
from gesso.runtime.model import LoadedModel
from tiny_sd import TINY_REFINER, TINY_SDXL, save_tiny_folder

REQUEST = TextToImageRequest(
    prompt="a turtle", seed=1, num_steps=3, width=64, height=64, num_images=2, refiner_switch_at=0.5
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("models")
    return save_tiny_folder(base / "xl", TINY_SDXL), save_tiny_folder(base / "refiner", TINY_REFINER)


def loaded(engine: Engine, folders: tuple[Path, Path]) -> tuple[LoadedModel, LoadedModel]:
    first, second = folders
    return engine.load(first), engine.load(second)


def settled(model: LoadedModel) -> list[str]:
    return [name for name, component in model.residency.components.items() if component.dtype is not None]


@pytest.mark.parametrize("rule", ["calls", "timesteps"])
@pytest.mark.slow
def test_in_limited_memory_neither_is_there_while_the_other_works(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, rule: str
):
    engine = Engine("cpu", "float32", max_models=2, memory="64GiB")
    base, refiner = loaded(engine, folders)
    worked: list[str] = []

    def watch(model: LoadedModel, other: LoadedModel) -> Callable[..., None]:
        def look(network: torch.nn.Module, _inputs: object) -> None:
            worked.append(f"{model.name} {type(network).__name__}")
            assert settled(other) == [], f"{settled(other)} of {other.name} while {worked[-1]} works"

        return look

    for model, other in ((base, refiner), (refiner, base)):
        for network in model.parts.networks.values():
            network.register_forward_pre_hook(watch(model, other))
    decode = base.parts.vae.decode

    def decoded(latents: Tensor) -> Tensor:
        worked.append("xl decoder")
        assert settled(refiner) == []
        return decode(latents)

    monkeypatch.setattr(base.parts.vae, "decode", decoded)
    pipeline = TextToImage(engine, base, refiner=refiner)
    request = changed(REQUEST, refiner_rule=rule)
    pictures = list(pipeline(request))
    assert set(worked) == {"xl CLIPTextModel", "refiner CLIPTextModel", "xl UNet", "refiner UNet", "xl decoder"}
    first, second = (plan.base for plan in pipeline.plans(request).values())
    assert first == pytest.approx(second, rel=0.05)  # neither counts the other as a part of the process
    free = Engine("cpu", "float32", max_models=2)
    base, refiner = loaded(free, folders)
    for ours, theirs in zip(pictures, TextToImage(free, base, refiner=refiner)(request), strict=True):
        assert ours.image.tobytes() == theirs.image.tobytes()


def test_a_refiner_that_leaves_half_precision_is_asked_again_in_float32(folders: tuple[Path, Path]):
    engine = Engine("cpu", "bfloat16", max_models=2)
    base, refiner = loaded(engine, folders)
    formats: list[torch.dtype] = []

    def lose(_network: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        formats.append(output.dtype)
        return output if output.dtype == torch.float32 else output * float("inf")

    refiner.parts.unet.register_forward_hook(lose)
    pictures = list(TextToImage(engine, base, refiner=refiner)(REQUEST))
    assert set(formats) == {torch.bfloat16, torch.float32}
    for picture in pictures:
        assert picture.notices == ("the UNet produced NaN or infinity in bfloat16 and was recomputed in float32",)
    assert base.residency.dtype("unet") == refiner.residency.dtype("unet") == torch.bfloat16


def test_an_error_of_the_refiner_names_the_refiner_and_its_module(folders: tuple[Path, Path]):
    engine = Engine("cpu", "bfloat16", max_models=2)
    base, refiner = loaded(engine, folders)
    refiner.parts.unet.conv_in.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    with pytest.raises(NotFiniteError, match=r"^refiner: the UNet .* \(first in module conv_in\)") as found:
        list(TextToImage(engine, base, refiner=refiner)(REQUEST))
    assert (found.value.part, found.value.module) == ("unet", "conv_in")


def test_an_error_of_the_second_text_model_names_it(folders: tuple[Path, Path]):
    engine = Engine("cpu", "float32")
    base = engine.load(folders[0])
    norm = next(m for m in base.parts.networks["text_2"].modules() if isinstance(m, torch.nn.LayerNorm))
    norm.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    with pytest.raises(NotFiniteError, match=r"^xl: the text encoder .* \(first in module text_2: \S+norm"):
        list(TextToImage(engine, base)(TextToImageRequest(prompt="a", seed=1, num_steps=1, width=64, height=64)))
