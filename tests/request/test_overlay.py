"""Requests that start from others."""

from dataclasses import replace

from asking import ask
from gesso.request.overlay import overlay
from gesso.request.parts import LoraUse
from gesso.request.request import TextToImageRequest
from made_recipes import make_recipe

BASE = ask(
    prompt="a cat", seed=0, num_steps=30, sampler="euler", schedule="karras", loras=(LoraUse(name="ink"),), strength=0.5
)


def test_nothing_said_changes_nothing():
    assert overlay(BASE, TextToImageRequest(prompt=""), with_image=True) == replace(BASE, prompt="")


def test_what_is_said_wins_and_zero_is_said():
    found = overlay(BASE, ask(prompt="a dog", seed=0, num_steps=5, strength=0.0), with_image=True)
    assert (found.prompt, found.seed, found.num_steps, found.source.strength) == ("a dog", 0, 5, 0.0)
    assert (found.sampler, found.loras) == ("euler", BASE.loras)


def test_another_sampler_goes_with_its_own_schedule():
    found = overlay(BASE, TextToImageRequest(prompt="x", sampler="ddim"), with_image=False)
    assert (found.sampler, found.schedule, found.source.strength) == ("ddim", None, None)


def test_another_preset_brings_its_own_conventions():
    base = make_recipe().request
    found = overlay(base, TextToImageRequest(prompt="x", preset="a1111"), with_image=False)
    assert (found.preset, found.conventions.levels, found.noise, found.seed) == ("a1111", None, None, 5)
    same = overlay(base, TextToImageRequest(prompt="x", preset="gesso"), with_image=False)
    assert (same.conventions.levels, same.noise) == ("round", "philox")


def test_own_sigmas_give_way_to_steps_and_the_other_way_round():
    own = TextToImageRequest(prompt="x", sigmas=(3.0, 1.0, 0.0))
    assert overlay(own, TextToImageRequest(prompt="x", num_steps=4), with_image=False).sigmas is None
    found = overlay(BASE, own, with_image=False)
    assert (found.sigmas, found.num_steps, found.schedule) == ((3.0, 1.0, 0.0), None, None)
