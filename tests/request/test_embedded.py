"""The adapters that gesso carries: they load, fit gesso-mini, stay small, and have a card."""

from importlib import resources
from pathlib import Path

import pytest

from gesso.adapters.lora import read_lora
from gesso.adapters.names import Target
from gesso.checkpoints.weight_file import open_weights
from gesso.families.control_network import load_control_network
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.request.embedded import EMBEDDED_EXTRAS, embedded_extras
from gesso.runtime.engine import find_model

MAX_BYTES = 15_000_000  # of all together
DATA = Path(str(resources.files("gesso") / "data"))


@pytest.fixture(scope="module")
def parts() -> ModelParts:
    return load_parts(find_model("gesso-mini"), dtype=None, check=False)


def test_what_is_named_is_there_and_small() -> None:
    for kind, files in EMBEDDED_EXTRAS.items():
        assert embedded_extras(kind).keys() == files.keys()
    paths = [path for kind in ("lora", "control") for path in embedded_extras(kind).values()]
    assert sum(path.stat().st_size for path in paths) <= MAX_BYTES


@pytest.mark.parametrize("name", embedded_extras("lora"))
def test_a_style_fits_the_model_whole(name: str, parts: ModelParts) -> None:
    lora = read_lora(open_weights(embedded_extras("lora")[name]), Target("gesso-mini", "sd1", parts.networks))
    assert lora.match.unmatched == ()
    assert lora.components == ("unet",)
    assert lora.metadata["modelspec.title"] == f"{name.replace('-', ' ')} for gesso-mini"
    assert lora.metadata["modelspec.license"] == "Apache-2.0"


@pytest.mark.parametrize("name", embedded_extras("control"))
def test_a_control_net_fits_the_model(name: str, parts: ModelParts) -> None:
    found = load_control_network(embedded_extras("control")[name], parts.family)
    assert found.preprocessor == "canny"
    assert found.network.config.downscale == parts.family.size_multiple  # the hint has the size of the picture


def test_each_has_its_place_in_the_card() -> None:
    card = (DATA / "gesso-mini-adapters.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for files in EMBEDDED_EXTRAS.values() for name in files)
