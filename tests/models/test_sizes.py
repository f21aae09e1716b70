"""Counts, names and shapes of the published Stable Diffusion 1.5."""

import gzip
import json
from pathlib import Path

import pytest

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.keymap import Rule, Shape, plan, save, shapes_of
from gesso.families.parts import empty_networks, param_shapes
from gesso.families.sd15 import SD15

NAMES = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / "sd15.json.gz").read_bytes()))["names"]
NETWORKS = empty_networks(SD15, "sd15")


def published(layout: str) -> dict[str, Shape]:
    return {name: tuple(shape) for name, shape in NAMES[layout].items()}


@pytest.mark.parametrize(("part", "count"), [("unet", 859_520_964), ("text", 123_060_480), ("vae", 83_653_863)])
def test_parameter_counts(part: str, count: int) -> None:
    assert sum(param.numel() for param in NETWORKS[part].parameters()) == count


def test_the_single_file_has_every_published_name_and_shape() -> None:
    """All but the bookkeeping of a training that we did not run: its moving average's decay and count."""
    params = {f"{part}.{name}": p for part, net in NETWORKS.items() for name, p in net.state_dict().items()}
    made = shapes_of(save(ldm.file_rules("sd1", SD15.unet, SD15.vae), params))
    made |= shapes_of(ldm.schedule_buffers(SD15.schedule.build().alphas_cumprod))
    made[f"cond_stage_model.transformer.text_model.embeddings.position_ids"] = (1, 77)  # written by save_ldm
    expected = published("ldm")
    assert len(expected) == 1145
    assert {name for name in expected if name.startswith(ldm.EMA)} == {"model_ema.decay", "model_ema.num_updates"}
    assert made == {name: shape for name, shape in expected.items() if not name.startswith(ldm.EMA)}


def test_the_published_single_file_loads() -> None:
    rules = ldm.file_rules("sd1", SD15.unet, SD15.vae)
    rows = plan(rules, published("ldm"), param_shapes(NETWORKS), where="published")
    assert len(rows) == 686 + 248 + 196


@pytest.mark.parametrize(
    ("part", "rules", "layout", "dropped"),
    [
        ("unet", diffusers.unet_rules(SD15.unet), "diffusers.unet", set()),
        ("vae", diffusers.vae_rules(), "diffusers.vae", set()),
        ("text", diffusers.text_rules(), "diffusers.text", {"text_model.embeddings.position_ids"}),
    ],
)
def test_the_folder_has_every_published_name_and_shape(
    part: str, rules: list[Rule], layout: str, dropped: set[str]
) -> None:
    made = shapes_of(save(rules, NETWORKS[part].state_dict()))
    expected = published(layout)
    assert made == {name: shape for name, shape in expected.items() if name not in dropped}
    plan(rules, expected, shapes_of(NETWORKS[part].state_dict()), where="published")


def test_names_of_2022_load() -> None:
    expected = published("diffusers.vae.2022")
    assert sum(".query." in name or ".proj_attn." in name for name in expected) == 8
    rows = plan(diffusers.vae_rules(), expected, shapes_of(NETWORKS["vae"].state_dict()), where="published")
    assert len(rows) == 248
