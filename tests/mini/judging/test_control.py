"""Agreement with an edge map: closed forms, and a ControlNet in the batches of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gesso.families.native_control import save_control
from gesso.mini.judging.control import edge_f1, evaluate_control, foreground, iou
from gesso.mini.judging.model_pictures import ModelPictures
from gesso.models.controlnet import ControlNet, ControlNetConfig
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.scenes.render import Renderer
from gesso.scenes.vocabulary import things
from tiny_models import save_tiny_mini, tiny_family

pytest.importorskip("cv2")
SIZE = 128  # an edge may lie 2 points beside


def line(column: int) -> np.ndarray:
    edges = np.zeros((SIZE, SIZE), bool)
    edges[:, column] = True
    return edges


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (line(50), line(50), 1.0),
        (line(50), line(52), 1.0),
        (line(50), line(53), 0.0),
        (line(50) | line(90), line(50), 2 * 0.5 / 1.5),  # precision one half
        (line(50), line(50) | line(90), 2 * 0.5 / 1.5),  # recall one half
        (line(50) & False, line(50), 0.0),
        (line(50) & False, line(50) & False, 1.0),
    ],
)
def test_edge_f1_in_closed_form(found: np.ndarray, wanted: np.ndarray, expected: float) -> None:
    assert edge_f1(found, wanted) == pytest.approx(expected)


def test_iou_of_two_squares_in_closed_form() -> None:
    image, other = np.full((2, SIZE, SIZE, 3), 90, np.uint8)
    image[20:60, 20:60], other[20:60, 40:80] = (90, 180, 90), (90, 0, 90)
    assert iou(foreground(image), foreground(other)) == pytest.approx(1 / 3)
    assert iou(foreground(image[:10, :10]), foreground(other[:10, :10])) == 1


def test_a_perfect_follower_scores_one_and_a_blank_page_nothing() -> None:
    shapes = np.zeros((len(things()), 128, 128, 4), np.uint8)
    shapes[:, 20:108, 20:108] = (0, 0, 0, 255)
    shapes[:, 50:80, 50:80, :3] = 255
    drawn: list[np.ndarray] = []

    class Remembering(Renderer):
        def __call__(self, scene: object, size: int) -> np.ndarray:
            drawn.append(super().__call__(scene, size))
            return drawn[-1]

    report = evaluate_control(
        lambda prompts, seeds, hints: np.stack(drawn[-len(prompts) :]),
        lambda prompts, seeds: np.full((len(prompts), SIZE, SIZE, 3), 255, np.uint8),
        things=things(),
        renderer=Remembering(shapes),
        size=SIZE,
        num_prompts=14,
        batch_size=5,
    )
    assert {row["placement"] for row in report.rows()} == {"usual", "moved"}
    for row in report.rows():
        assert (row["with"], row["without"], row["nearer"], row["prompts"]) == (1, 0, 1, 14)
    assert '"edge F1"' in report.to_json()


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory):
    model = Engine("cpu", "float32").load(save_tiny_mini(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"))
    engine = Engine("cpu", "float32")
    return model, ModelPictures(engine, model, TextToImageRequest(prompt="-"))


def control_file(path: Path, unet: object, *, zero: bool) -> Path:
    torch.manual_seed(3)
    control = ControlNet(ControlNetConfig(unet=tiny_family().unet, hint_channels=(8, 8, 8), hint_patch=2))
    if zero:
        control.initialise_from(unet)
    save_control(path, control, "gesso-mini", "canny", {"title": "tiny"})
    return path


def test_a_new_control_net_changes_nothing_and_the_model_is_free_again(drawing, tmp_path: Path) -> None:
    model, generate = drawing
    prompts, seeds, hints = ["a cat", "two cats"], [1, 2], np.full((2, 64, 64, 3), 200, np.uint8)
    before = generate(prompts, seeds)
    new = generate.with_control(control_file(tmp_path / "new.safetensors", model.parts.unet, zero=True))
    assert (new(prompts, seeds, hints) == before).all()
    other = generate.with_control(control_file(tmp_path / "other.safetensors", model.parts.unet, zero=False))
    assert (other(prompts, seeds, hints) != before).any()
    assert (generate(prompts, seeds) == before).all()


def test_each_prompt_sees_its_own_hint(drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the batch of all prompts."""
    model, generate = drawing
    seen = []

    def remember(self: ControlNet, x: torch.Tensor, *given: torch.Tensor) -> list[torch.Tensor]:
        seen.append([round(float(row.mean()), 2) for row in given[2]])
        return forward(self, x, *given)

    forward = ControlNet.forward
    monkeypatch.setattr(ControlNet, "forward", remember)
    steer = generate.with_control(control_file(tmp_path / "c.safetensors", model.parts.unet, zero=False))
    hints = np.zeros((2, 64, 64, 3), np.uint8)
    hints[1] = 51
    steer(["a cat", "two cats"], [1, 2], hints)
    assert seen == [[0.0], [0.2]] * 4  # steps; each run asks for its own rows
