"""Headers of networks that steer, changed at random: each is understood or refused by name, and none costs memory."""

import random
from collections.abc import Callable

import pytest

from families.test_control_network import theirs
from families.test_controlnet_union import their_union
from families.test_t2i_adapter import their_adapter
from gesso.checkpoints.controlnets import ControlNetFile
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.keymap import Shape, plan, shapes_of
from gesso.checkpoints.t2i_adapters import t2i_adapter_layout
from gesso.families.base import Family
from gesso.families.control_network import control_unet
from gesso.families.parts import on_meta
from gesso.models.controlnet import ControlNet
from gesso.models.controlnet_union import UnionConfig, UnionControlNet
from gesso.models.t2i_adapter import T2IAdapter
from tiny_sd import TINY_SD, TINY_SDXL

Shapes = dict[str, Shape]
NUMBERS = (0, 1, 2, 3, 5, 32, 64, 2**20, 2**31, 2**62)


def as_controlnet(family: Family) -> Callable[[Shapes], None]:
    def read(shapes: Shapes) -> None:
        found = ControlNetFile.of(shapes)
        if found is None:
            return
        config = found.config(control_unet(family), "test")
        with on_meta():
            network = UnionControlNet(config) if isinstance(config, UnionConfig) else ControlNet(config)
        plan(
            found.rules(config, linear=family.layout != "sd1"), found.shapes, shapes_of(network.state_dict()), where="t"
        )

    return read


def as_adapter(shapes: Shapes) -> None:
    config, rules = t2i_adapter_layout(shapes, "test")
    with on_meta():
        network = T2IAdapter(config)
    plan(rules, shapes, shapes_of(network.state_dict()), where="test")


def changed(shapes: Shapes, rng: random.Random) -> Shapes:
    """A few names lost, doubled under another number, or with other sizes; those that sizes are read from the more."""
    found = dict(shapes)
    telling = [name for name in found if any(part in name for part in ("cond_embedding", "task", "conv_in", "to_k"))]
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice(telling if telling and rng.random() < 0.6 else list(found))
        shape = found.pop(name, (1,))
        act = rng.randrange(4)
        if act == 0:
            continue
        if act == 1:
            name = name.replace(str(rng.randrange(4)), str(rng.choice((7, 99, 10**9))))
        elif act == 2:
            shape = tuple(rng.choice(NUMBERS) for _ in range(rng.randrange(6)))
        elif shape:
            place = rng.randrange(len(shape))
            shape = (*shape[:place], rng.choice(NUMBERS), *shape[place + 1 :])
        found[name] = shape
    return found


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda: theirs(TINY_SD), as_controlnet(TINY_SD)),
        (their_union, as_controlnet(TINY_SDXL)),
        (lambda: their_adapter(TINY_SD), as_adapter),
        (lambda: their_adapter(TINY_SD, light=True), as_adapter),
    ],
    ids=["controlnet", "union", "t2i-adapter", "light"],
)
@pytest.mark.parametrize("count", [30, pytest.param(150, marks=pytest.mark.slow)])  # each makes a network
@pytest.mark.sampled(2)
def test_a_changed_header_is_understood_or_refused(
    make: Callable[[], object], read: Callable[[Shapes], None], count: int
) -> None:
    shapes = shapes_of(make().state_dict())  # type: ignore[attr-defined]
    read(shapes)
    rng, refused = random.Random(0), 0
    for _ in range(count):
        try:
            read(changed(shapes, rng))
        except ModelFileError:
            refused += 1
    assert refused > count * 2 / 3
