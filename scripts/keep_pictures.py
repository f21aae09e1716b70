"""Keep a set of pictures, and see later whether another state of the code draws every bit of them the same.

    python scripts/keep_pictures.py make FOLDER                        # with the code as it is before a change
    PYTHONPATH=src python scripts/keep_pictures.py check FOLDER        # with the code as it is after the change

Only the command line is used, `python -m gesso`; PYTHONPATH decides whose. `make` draws what the tables below say and
writes FOLDER/manifest.json, which has for each picture the words that drew it, the SHA-256 of its decoded pixels, and
that of the settings in the file. FOLDER holds all that went in, so it can be moved.

`check` does two things with each picture: it draws it once more from the same words and compares the hash, and it has
`gesso replay` make it again from the recipe in the file, which must say "identical" (with tolerance 0, unedited). It
prints a line for each picture of which one is not so, and ends with 1. Where the pixels are the same and the settings
in the file are not, that is a line too; it counts with --settings.

Bits depend on torch, on the processor and on the number of threads. Everything runs with one thread, and the manifest
remembers the rest: `check` says what is not as it was. Commands run one after the other in --jobs processes that stay,
which saves most of the time; --fresh gives each command a process of its own. `make --fresh` and a `check` without it
show besides that no picture depends on what was drawn before it. `make` goes on where it was cut off, in an order in
which any part of the set has something of everything.

`make --models MODELS` takes small models of other families, diffusers folders called sd15, sd21, sdxl, sdxl-refiner and
so on (see `family_drawings`). The tests have some of random numbers:

    PYTHONPATH=src:tests python -c "from tiny_sd import *; from pathlib import Path
    for f in TINY_FAMILIES.values(): save_tiny_folder(Path('MODELS', f.name), f)"
"""

import argparse
import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import queue
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

MANIFEST, INPUTS, PICTURES, HOME = "manifest.json", "inputs", "pictures", "home"
ENDINGS = (".png", ".jpg", ".webp", ".avif")
VERSION = 1

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Drawing:
    """One command that draws.

    name    of the drawing; its pictures lie in FOLDER/pictures/NAME
    words   of the command, without where the pictures go; files are named from FOLDER
    output  what --output gets: a file or a pattern inside that folder, "" for the folder itself
    recipe  whether the pictures have a recipe to replay; sheets of a grid never have
    fresh   in a process of its own, because what it does depends on the process
    expected  why replay may find another picture; "" if it may not
    """

    name: str
    words: list[str]
    output: str = "{index}.png"
    recipe: bool = True
    fresh: bool = False
    expected: str = ""


@dataclass
class Kept:
    """A picture of the manifest. replay: the words it is replayed with besides its name; None: it has no recipe."""

    name: str
    file: str
    drawing: dict[str, Any]
    replay: list[str] | None
    sha256: str
    settings_sha256: str
    expected: str = ""


@dataclass
class Table:
    """The drawings, under names that nobody may take twice."""

    drawings: dict[str, Drawing] = field(default_factory=dict)

    def add(self, name: str, *words: str, **more: Any) -> None:
        """Any command."""
        if name in self.drawings:
            raise ValueError(f"two drawings are called {name}")
        self.drawings[name] = Drawing(name, list(words), **more)

    def draw(self, name: str, prompt: str, *words: str, **more: Any) -> None:
        """`gesso generate`, quick where nothing else is said."""
        quick = [] if {"--steps", "--sigmas"} & set(words) else ["--steps", "5"]
        if not {"--size", "--image", "--from", "--model"} & set(words):
            quick += ["--size", "128"]
        seed = [] if "--seed" in words else ["--seed", str(100 + len(self.drawings))]
        self.add(name, "generate", prompt, *seed, *quick, *words, **more)


# --- what is drawn

SAMPLERS = """
    euler euler_ancestral heun ddim ddim_cfgpp ddpm dpmpp_2s_ancestral dpmpp_2m dpmpp_sde dpmpp_2m_sde dpmpp_2m_sde_heun
    dpmpp_3m_sde lms dpm_2 dpm_2_ancestral dpm_fast dpm_adaptive plms pndm ipndm deis unipc unipc_bh2 lcm tcd restart
    er_sde sa_solver
""".split()  # noqa: SIM905 (a table of words reads better than 28 lines)
SCHEDULES = """
    uniform karras exponential polyexponential sgm_uniform simple ddim_uniform beta beta_comfyui linear_quadratic
    kl_optimal kl_optimal_comfyui align_your_steps align_your_steps_sdxl align_your_steps_comfyui
    align_your_steps_sdxl_comfyui turbo
""".split()  # noqa: SIM905
PRESETS = ("gesso", "a1111", "diffusers")
OBJECTS = (
    "a red car on a yellow background",
    "three green apples",
    "a blue cat above a pizza",
    "a purple house",
    "a white rocket left of an orange moon",
)
SOURCE, MASK, GREY, PHOTO = "inputs/source.png", "inputs/mask.png", "inputs/grey-mask.png", "inputs/photo.png"
EDGES, LORA, SECOND = "inputs/edges.png", "inputs/small-comic.safetensors", "inputs/second.safetensors"
CANNY = f"gesso-edges,image={SOURCE},preprocess=canny"
IMAGE = ("--image", SOURCE)
MASKED = (*IMAGE, "--mask", MASK)


def drawings() -> dict[str, Drawing]:
    """Everything that the carried model is asked for."""
    table = Table()
    for part in (_sampling, _conventions, _prompts, _adapters, _controls, _pictures_in, _larger, _noise, _running):
        part(table)
    small = ("--size", "128", "--seed")
    table.add("few-steps", "generate", OBJECTS[1], "--fast", *small, "1")
    table.add("few-steps-comic", "generate", OBJECTS[2], "--fast", "--lora", "comic:0.6", *small, "2")
    table.add("few-steps-other-settings", "generate", OBJECTS[1], "--fast", "--steps", "8", *small, "3")
    return table.drawings


def _sampling(table: Table) -> None:
    for number, sampler in enumerate(SAMPLERS):
        prompt = OBJECTS[number % len(OBJECTS)]
        for preset in PRESETS:
            table.draw(f"sampler-{sampler}-{preset}", prompt, "--sampler", sampler, "--preset", preset)
    for number, schedule in enumerate(SCHEDULES):
        sampler = ("euler", "dpmpp_2m", "dpmpp_2m_sde")[number % 3]
        table.draw(f"schedule-{schedule}", OBJECTS[number % 5], "--schedule", schedule, "--sampler", sampler)
    for schedule in ("karras", "beta"):
        table.draw(f"schedule-{schedule}-unipc", OBJECTS[0], "--sampler", "unipc", "--schedule", schedule)
    table.draw("restart-20-steps", OBJECTS[1], "--sampler", "restart", "--steps", "20")
    table.draw("own-sigmas", OBJECTS[0], "--sigmas", "14.6,7,3,1,0.3,0")
    for sampler, eta in (("ddim", "0.5"), ("euler_ancestral", "0.4"), ("dpm_fast", "1"), ("dpm_adaptive", "0.5")):
        table.draw(f"eta-{sampler}", OBJECTS[2], "--sampler", sampler, "--eta", eta)
    for sampler in ("euler", "ddim_cfgpp"):
        for guidance in ("0", "1", "9"):
            table.draw(f"guidance-{guidance}-{sampler}", OBJECTS[0], "--sampler", sampler, "--guidance", guidance)
    table.draw("guidance-rescale", OBJECTS[0], "--guidance", "9", "--guidance-rescale", "0.7")
    table.draw("guidance-rescale-negative", OBJECTS[3], "--guidance-rescale", "0.3", "--negative-prompt", "red")
    table.draw("defaults", OBJECTS[4], "--size", "256", "--steps", "12")
    for size in ("192", "320x192", "128x192"):
        table.draw(f"size-{size}", OBJECTS[1], "--size", size)


def _conventions(table: Table) -> None:
    for rule in ("sigma", "variance", "comfyui"):
        table.draw(f"initial-noise-{rule}", OBJECTS[0], "--sampler", "euler", "--set", f"initial_noise={rule}")
    for spacing in ("leading", "linspace", "trailing"):
        for sampler, schedule in (("euler", "uniform"), ("dpmpp_2m", "karras")):
            words = ("--sampler", sampler, "--schedule", schedule, "--set", f"timestep_spacing={spacing}")
            table.draw(f"spacing-{spacing}-{sampler}", OBJECTS[1], *words)
    for sampler in ("ddim", "plms", "unipc"):
        table.draw(f"spacing-a1111-{sampler}", OBJECTS[1], "--sampler", sampler, "--set", "timestep_spacing=a1111")
    for setting in (
        "round_timesteps=true",
        "discard_penultimate_sigma=true",
        "sigma_table=rounded",
        "sigma_table=float32",
        "levels=truncate",
        "clip_skip_everywhere=true",
        "empty_negative=encoded",
    ):
        table.draw(f"set-{setting.replace('=', '-')}", OBJECTS[2], "--set", setting)
    table.draw("clip-skip", OBJECTS[3], "--clip-skip", "2")


def _prompts(table: Table) -> None:
    weights = "a (red:1.4) car on a [yellow] background, ((star))"
    for emphasis in ("original", "no_norm", "comfyui", "compel", "ignore"):
        table.draw(f"emphasis-{emphasis}", weights, "--set", f"emphasis={emphasis}")
    for syntax, prompt in {
        "comfyui": "a ((red:1.2)) car on a (yellow:0.7) background",
        "compel": "a red++ car on a (yellow background)-",
        "plain": "a (red:1.4) car",
    }.items():
        table.draw(f"syntax-{syntax}", prompt, "--syntax", syntax)
    table.draw("compel-blend", '("a red car", "a blue house").blend(3, 1)', "--syntax", "compel")
    table.draw("compel-and", '("a red car", "a blue house").and()', "--syntax", "compel")
    long = ", ".join(f"a {colour} {thing}" for thing in ("car", "cat", "star", "house") for colour in COLOURS)
    for name, prompt in {
        "break": "a red car BREAK on a yellow background",
        "and": "a red car AND a yellow background",
        "and-weights": "a red car :1.2 AND a house :-0.4 AND a star :0.3",
        "change-share": "a [cat:dog:0.4] on a yellow background",
        "change-step": "a [red:blue:3] car",
        "change-from": "a red car[ on a yellow background:0.5]",
        "change-until": "a red car[ on a yellow background::0.5]",
        "change-nested": "a [red:[blue:green:0.6]:0.3] car",
        "alternate": "a [cat|dog|owl]",
        "alternate-and": "a [cat|dog] AND a [red:blue:0.5] background",
        "long": long,
        "long-break": f"{long} BREAK {long}",
        "odd-signs": r"a \(red\) café, 車, a (car:1.2.3) # and more",
        "two-objects": OBJECTS[4],
    }.items():
        table.draw(f"prompt-{name}", prompt)
        if name.startswith(("change", "alternate", "long", "and")):
            table.draw(f"prompt-{name}-a1111", prompt, "--preset", "a1111")
    table.draw("change-second-order", "a [cat:dog:0.4]", "--sampler", "heun", "--schedule", "karras")
    table.draw("change-image", "a [cat:dog:0.8]", *IMAGE, "--strength", "0.6", "--steps", "8")
    table.draw(
        "change-image-a1111", "a [cat:dog:0.5]", *IMAGE, "--strength", "0.6", "--steps", "8", "--preset", "a1111"
    )
    table.draw("long-first", long, "--set", "chunks=first")
    table.draw("long-apart", long, "--set", "uneven_chunks=apart", "--negative-prompt", "blue")
    table.draw("negative", OBJECTS[0], "--negative-prompt", "yellow")
    table.draw("negative-weights", OBJECTS[0], "--negative-prompt", "(yellow:1.3), [green:blue:0.5]")
    table.draw("negative-long", OBJECTS[0], "--negative-prompt", long)
    table.draw("and-without-guidance", "a red car AND a yellow background :0.5", "--guidance", "1")
    table.draw("style", "a cat", "--styles", "inputs/styles.csv", "--style", "garden", "--style", "tail")
    table.draw("wildcards", "a __colour__ {car|house}", "--wildcards", "inputs/wildcards", "--number", "3")
    table.draw("dynamic-prompts", "a {2$$red|blue|green} {0.7::cat|0.3::dog}", "--dynamic-prompts", "--number", "2")
    midjourney = "a car:: yellow background::0.5 --ar 3:2 --no dogs --seed 12 --stylize 200"
    table.add("midjourney", "generate", midjourney, "--syntax", "midjourney", "--steps", "6")
    table.draw("midjourney-tile", "leaves --tile --repeat 2", "--syntax", "midjourney")
    table.draw("learned-word", "a car, spark", "--embedding", "inputs/spark.safetensors")
    table.draw(
        "learned-word-weight", "a car", "--negative-prompt", "(spark:1.2)", "--embedding", "inputs/spark.safetensors"
    )


COLOURS = ("red", "blue", "green", "yellow", "white", "purple", "orange")


def _adapters(table: Table) -> None:
    for lora in ("comic", "woodcut"):
        for mode in ("run", "merged"):
            table.draw(f"lora-{lora}-{mode}", OBJECTS[0], "--lora", lora, "--set", f"lora_mode={mode}")
        table.draw(f"lora-{lora}-strength", OBJECTS[1], "--lora", f"{lora}:0.5")
    for mode in ("run", "merged"):
        setting = ("--set", f"lora_mode={mode}")
        table.draw(f"lora-two-{mode}", OBJECTS[2], "--lora", "comic:0.6", "--lora", "woodcut:0.4", *setting)
        table.draw(f"lora-text-{mode}", OBJECTS[2], "--lora", "comic:0.8:0.3", *setting)
        table.draw(f"lora-changing-{mode}", OBJECTS[3], "--lora", "comic:1@0,0.2@0.6", *setting)
        table.draw(f"lora-file-{mode}", OBJECTS[3], "--lora", f"{LORA}:0.9", *setting)
        table.draw(f"lora-bfloat16-{mode}", OBJECTS[0], "--lora", "woodcut:0.8", "--dtype", "bfloat16", *setting)
    table.draw("lora-negative-strength", OBJECTS[0], "--lora", "comic:-0.5")
    table.draw("lora-beyond-1", OBJECTS[0], "--lora", "woodcut:1.4:0")
    table.draw("lora-peft", OBJECTS[0], "--lora", "inputs/peft-woodcut.safetensors:0.8")
    for name, tag in {
        "strength": "<lora:comic:0.7>",
        "two": "<lora:comic:0.5><lora:woodcut:0.5>",
        "text-first": "<lora:comic:0.2:0.9>",
        "named": "<lora:woodcut:te=0.5:unet=0.8>",
        "changing": "<lora:woodcut:1@0,0.2@0.6>",
        "rank": "<lora:comic:0.8:0.8:4>",
    }.items():
        table.draw(f"tag-{name}", f"a red car {tag}")
    table.draw("tag-a1111", "a (red:1.2) car <lora:comic:0.7>", "--preset", "a1111")
    table.draw("tag-compel", "a red car withLora(comic, 0.8)", "--syntax", "compel")
    table.draw("lora-image", "a blue car", *IMAGE, "--strength", "0.6", "--lora", "comic")
    table.draw("lora-hires", OBJECTS[0], "--lora", "comic:0.7", "--hires", "1.5")
    table.draw("second-model", OBJECTS[0], "--model", SECOND)
    for rule in ("calls", "timesteps"):
        for switch in ("0.3", "0.8"):
            words = ("--refiner", SECOND, "--refiner-switch-at", switch, "--set", f"refiner_rule={rule}")
            table.draw(f"refiner-{rule}-{switch}", OBJECTS[1], *words)
    table.draw("refiner-itself", OBJECTS[1], "--refiner", "gesso-mini")
    table.draw("refiner-ancestral", OBJECTS[1], "--refiner", SECOND, "--sampler", "euler_ancestral")
    table.draw("refiner-image", "a blue car", *IMAGE, "--strength", "0.7", "--refiner", SECOND)
    table.draw("refiner-hires", OBJECTS[1], "--refiner", SECOND, "--hires", "1.5")
    for preset in ("a1111", "diffusers"):
        table.draw(f"refiner-{preset}", OBJECTS[0], "--refiner", SECOND, "--preset", preset)


def _controls(table: Table) -> None:
    for rule in ("a1111", "diffusers"):
        for mode in ("balanced", "prompt", "control"):
            words = ("--control", f"{CANNY},mode={mode}", "--set", f"control_rule={rule}")
            table.draw(f"control-{mode}-{rule}", "a blue car", *words)
        words = ("--control", f"{CANNY},start=0.2,end=0.6", "--set", f"control_rule={rule}")
        table.draw(f"control-part-{rule}", "a blue car", *words)
        wide = ("--control", f"gesso-edges,image={PHOTO},preprocess=canny", "--set", f"control_rule={rule}")
        table.draw(f"control-other-shape-{rule}", "a blue car", *wide)
        table.draw(f"control-preset-{rule}", "a blue car", "--control", CANNY, "--preset", rule)
    table.draw("control-weight", "a blue car", "--control", f"{CANNY},weight=0.5")
    table.draw("control-low-high", "a blue car", "--control", f"{CANNY},low=20,high=80")
    table.draw("control-hint", "a blue car", "--control", f"gesso-edges,image={EDGES}")
    table.draw("control-softedge", "a blue car", "--control", f"gesso-edges,image={SOURCE},preprocess=softedge")
    both = ("--control", f"{CANNY},weight=0.6,end=0.5", "--control", f"gesso-edges,image={EDGES},weight=0.5,start=0.3")
    table.draw("control-two", "a blue car", *both)
    table.draw("control-two-hints", "a blue car", *both[:3], f"gesso-edges,image={PHOTO},preprocess=canny,weight=0.5")
    table.draw("control-lora", "a blue car", "--control", CANNY, "--lora", "comic:0.7")
    table.draw("control-image", "a blue car", *IMAGE, "--strength", "0.7", "--control", f"{CANNY},end=0.5")
    table.draw("control-mask", "a leaf", *MASKED, "--control", CANNY)
    table.draw("control-mask-area", "a leaf", *MASKED, "--mask-area", "masked", "--control", CANNY)
    table.draw("control-hires", "a blue car", "--control", CANNY, "--hires", "1.5")
    table.draw("control-tile", "a blue car", "--control", CANNY, "--size", "192x128", "--tile", "128")
    table.draw("control-guidance-1", "a blue car", "--control", f"{CANNY},mode=control", "--guidance", "1")
    table.draw("control-bfloat16", "a blue car", "--control", CANNY, "--dtype", "bfloat16")
    table.draw("control-refiner", "a blue car", "--control", CANNY, "--refiner", SECOND)
    table.draw("control-and", "a blue car AND a star :0.4", "--control", f"{CANNY},mode=prompt")


def _pictures_in(table: Table) -> None:
    words: tuple[str, ...]
    for rule in ("share", "a1111", "diffusers"):
        for strength in ("0.3", "0.6", "1"):
            words = ("--strength", strength, "--set", f"strength_rule={rule}")
            table.draw(f"image-{strength}-{rule}", "a blue car", *IMAGE, *words)
    for preset in PRESETS:
        for sampler in ("euler_ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "unipc_bh2"):
            words = ("--preset", preset, "--sampler", sampler, "--strength", "0.7")
            table.draw(f"image-{sampler}-{preset}", "a blue car", *IMAGE, *words)
        table.draw(f"image-{preset}", "a blue car", *IMAGE, "--preset", preset)
        table.draw(f"mask-{preset}", "a green leaf", *MASKED, "--preset", preset)
        table.draw(f"mask-full-{preset}", "a green leaf", *MASKED, "--preset", preset, "--strength", "1")
        table.draw(f"outpaint-{preset}", "a red car", *IMAGE, "--outpaint", "right=32", "--preset", preset)
    for encode in ("mean", "sample"):
        table.draw(f"image-{encode}", "a blue car", *IMAGE, "--strength", "0.5", "--set", f"vae_encode={encode}")
    table.draw("image-own-size", "a red house", "--image", PHOTO, "--strength", "0.5")
    for mode in ("stretch", "crop", "fill"):
        words = ("--image", PHOTO, "--strength", "0.5", "--size", "128", "--resize-mode", mode)
        table.draw(f"resize-{mode}", "a red house", *words)
    table.draw("image-clear", "a red house", "--image", "inputs/clear.png", "--strength", "0.5")
    table.draw("image-jpeg", "a red house", "--image", "inputs/turned.jpg", "--strength", "0.5")
    table.draw("image-number", "a blue car", *IMAGE, "--strength", "0.6", "--number", "2")
    for blend in ("x0", "x", "differential"):
        for kind, mask in (("hard", MASK), ("grey", GREY)):
            words = ("--image", SOURCE, "--mask", mask, "--set", f"mask_blend={blend}")
            table.draw(f"mask-{blend}-{kind}", "a green leaf", *words)
        words = ("--mask-blur", "6", "--set", f"mask_blend={blend}", "--sampler", "euler_ancestral")
        table.draw(f"mask-{blend}-blur", "a green leaf", *MASKED, *words)
    for content in ("original", "fill", "noise", "nothing"):
        for strength in ("0.7", "1"):
            words = ("--mask-content", content, "--strength", strength)
            table.draw(f"mask-content-{content}-{strength}", "a green leaf", *MASKED, *words)
    table.draw("mask-invert", "a green leaf", *MASKED, "--mask-invert", "--mask-blur", "3")
    table.draw("mask-not-pasted", "a green leaf", *MASKED, "--set", "paste_back=false")
    table.draw("mask-other-size", "a ball", "--image", PHOTO, "--mask", MASK)
    area = ("--mask-area", "masked")
    table.draw("mask-area", "a ball", *MASKED, *area)
    table.draw("mask-area-padding", "a ball", *MASKED, *area, "--mask-padding", "8", "--mask-blur", "4")
    table.draw("mask-area-wide", "a ball", "--image", PHOTO, "--mask", "inputs/photo-mask.png", *area)
    table.draw(
        "mask-area-size", "a ball", *MASKED, *area, "--size", "160", "--mask-content", "noise", "--strength", "1"
    )
    table.draw("outpaint-all", "a red car", *IMAGE, "--outpaint", "16")
    table.draw("outpaint-odd", "a red car", *IMAGE, "--outpaint", "left=10,bottom=25", "--mask-blur", "2")
    table.draw("outpaint-fill", "a red car", *IMAGE, "--outpaint", "32", "--mask-content", "fill", "--strength", "1")
    table.draw("outpaint-mask", "a red car", *MASKED, "--outpaint", "right=32")
    table.draw("from-own", "", "--from", SOURCE, "--steps", "5", "--seed", "4")
    table.draw("from-a1111", "", "--from", "inputs/foreign.png", "--steps", "5", "--seed", "4")


def _larger(table: Table) -> None:
    words: tuple[str, ...]
    ways = "lanczos bicubic bilinear nearest box latent_nearest latent_nearest_exact latent_bilinear latent_bicubic "
    ways += "latent_bilinear_antialiased latent_bicubic_antialiased"
    for number, way in enumerate(ways.split()):
        strength = "0.6" if way.startswith("latent") else "0.35"
        words = ("--hires", "1.5", "--hires-upscaler", way, "--hires-strength", strength)
        table.draw(f"hires-{way}", OBJECTS[number % 5], *words)
    for preset in PRESETS:
        table.draw(f"hires-{preset}", OBJECTS[0], "--hires", "1.5", "--preset", preset)
    table.draw("hires-size", OBJECTS[1], "--size", "128x96", "--hires", "192x160")
    table.draw("hires-width", OBJECTS[1], "--size", "128x96", "--hires", "192x")
    other = ("--hires-steps", "8", "--hires-sampler", "euler_ancestral", "--hires-schedule", "karras")
    table.draw("hires-other", OBJECTS[2], "--hires", "1.5", *other, "--hires-guidance", "5", "--hires-strength", "0.5")
    prompts = ("--hires-prompt", "a blue car", "--hires-negative-prompt", "red")
    table.draw("hires-prompt", OBJECTS[0], "--hires", "1.5", *prompts, "--hires-strength", "0.6")
    network = ("--hires-upscaler", "inputs/enlarger.safetensors")
    table.draw("hires-network", OBJECTS[0], "--hires", "1.5", *network)
    for noise in ("cpu", "nv"):
        words = ("--hires", "1.5", "--noise", noise, "--sampler", "euler_ancestral", "--hires-strength", "0.5")
        table.draw(f"hires-noise-{noise}", OBJECTS[3], *words)
    table.draw("hires-image", "a blue car", *IMAGE, "--strength", "0.6", "--hires", "1.5")
    table.draw("hires-tile", OBJECTS[0], "--hires", "1.5", "--tile", "128")
    table.draw("hires-tiling", "green leaves", "--hires", "1.5", "--tiling", "xy")
    table.draw("tile", OBJECTS[0], "--size", "192x128", "--tile", "128")
    table.draw("tile-overlap", OBJECTS[4], "--size", "192x192", "--tile", "128", "--tile-overlap", "64")
    table.draw("tile-ancestral", OBJECTS[4], "--size", "192x128", "--tile", "128", "--sampler", "euler_ancestral")
    table.draw("tile-image", "a house", "--image", PHOTO, "--strength", "0.4", "--size", "192x128", "--tile", "128")
    for sides in ("x", "y", "xy"):
        table.draw(f"tiling-{sides}", "three green leaves", "--tiling", sides)
    table.draw("tiling-image", "green leaves", *IMAGE, "--strength", "0.6", "--tiling", "xy")
    for way in ("nearest", "box", "bilinear", "bicubic", "lanczos"):
        table.add(f"upscale-{way}", "upscale", PHOTO, "--model", way, output="picture.png", recipe=False)
    for name, words in {
        "network": (),
        "network-tiles": ("--tile", "64", "--rim", "8"),
        "network-scale": ("--scale", "1.5"),
    }.items():
        words = ("upscale", PHOTO, "--model", "inputs/enlarger.safetensors", *words)
        table.add(f"upscale-{name}", *words, output="picture.png", recipe=False)
    table.add("upscale-to", "upscale", PHOTO, "--to", "250x150", output="picture.png", recipe=False)
    for way in ("canny", "softedge", "lineart", "scribble", "tile", "colour", "shuffle", "invert"):
        table.add(f"preprocess-{way}", "preprocess", way, PHOTO, output="picture.png", recipe=False)
    hole = ("preprocess", "inpaint", PHOTO, "--mask", "inputs/photo-mask.png", "--size", "128")
    table.add("preprocess-inpaint", *hole, output="picture.png", recipe=False)


def _noise(table: Table) -> None:
    for noise in ("philox", "cpu", "nv"):
        for sampler in ("euler_ancestral", "dpmpp_sde"):
            table.draw(f"noise-{noise}-{sampler}", OBJECTS[0], "--noise", noise, "--sampler", sampler)
    for kind in ("brownian", "independent", "torchsde"):
        for sampler in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
            words = ("--sampler", sampler, "--set", f"sde_noise={kind}", "--noise", "cpu")
            table.draw(f"sde-{kind}-{sampler}", OBJECTS[1], *words)
    for sampler in ("euler_ancestral", "ddim", "dpmpp_2m_sde"):
        eta = ("--eta", "0.7") if sampler == "ddim" else ()
        table.draw(f"ensd-{sampler}", OBJECTS[2], "--sampler", sampler, "--set", "ensd=31337", *eta)
    table.draw("ensd-nv", OBJECTS[2], "--sampler", "euler_ancestral", "--set", "ensd=31337", "--noise", "nv")
    vary = ("--variation-seed", "5", "--variation-strength", "0.3")
    table.draw("variation", OBJECTS[3], *vary, "--number", "2")
    table.draw("variation-whole", OBJECTS[3], *vary[:3], "1")
    table.draw("seed-size", OBJECTS[3], "--size", "192x128", "--seed-size", "128x128")
    for preset in ("a1111", "diffusers"):
        words = ("--size", "192x128", "--seed-size", "128x128", "--preset", preset)
        table.draw(f"variation-seed-size-{preset}", OBJECTS[3], *vary, *words)
    table.draw("number", OBJECTS[0], "--number", "3", "--sampler", "euler_ancestral")
    table.draw("index", OBJECTS[0], "--number", "2", "--index", "3", "--sampler", "dpmpp_sde")
    table.draw("large-seed", OBJECTS[0], "--seed", "18446744073709551615")


def _running(table: Table) -> None:
    words: tuple[str, ...]
    # What a plan does depends on what the process takes, so each has the middle of the range that gives the same plan.
    for name, memory in (("layers", "527MiB"), ("turns", "553MiB")):
        words = ("--memory", memory, "--size", "128")
        table.draw(f"memory-{name}", OBJECTS[0], *words, fresh=True, expected=MEMORY)
    for number, why in (("2", BATCH), ("3", BATCH)):
        words = ("--batch", number, "--number", number)
        table.draw(f"batch-{number}", OBJECTS[0], *words, expected=why)
    table.draw("batch-ancestral", OBJECTS[1], "--batch", "2", "--number", "3", "--preset", "a1111", expected=BATCH)
    table.draw("batch-mask", "a leaf", *MASKED, "--batch", "2", "--number", "2", "--sampler", "ddpm", expected=BATCH)
    for dtype in ("float32", "bfloat16"):
        table.draw(f"dtype-{dtype}", OBJECTS[0], "--dtype", dtype)
    table.draw("bfloat16-hires", OBJECTS[0], "--dtype", "bfloat16", "--hires", "1.5")
    table.draw("bfloat16-mask", "a green leaf", *MASKED, "--dtype", "bfloat16")
    for ending, quality in (("jpg", "90"), ("jpg", "40"), ("webp", "90"), ("webp", "100"), ("avif", "90")):
        words = ("--quality", quality)
        table.draw(f"format-{ending}-{quality}", OBJECTS[0], *words, output=f"{{index}}.{ending}")
    table.draw("preview", OBJECTS[0], "--preview", "{folder}/preview.png")
    grid = ("grid", "a red car", "--seed", "3", "--set", "steps=5")
    table.add("grid", *grid, "-x", "guidance=2,5", "-y", "prompt=red,green", output="")
    table.add("grid-loras", *grid, "-x", "lora:comic=0,0.8", "-y", "sampler=euler,ddim", output="")
    table.add("grid-sheets", *grid, "-x", "size=64,128x96", "-z", "seed=1,2", output="")
    table.add("grid-image", *grid, "-x", "strength=0.4,0.8", *IMAGE, "--control", CANNY, output="")
    table.add("batch-file", "batch", "inputs/prompts.txt", "--seed", "5", "--set", "steps=5", output="")
    words = ("--set", "steps=5", "--lora", "woodcut:0.6", "--dynamic-prompts")
    table.add("batch-file-lora", "batch", "inputs/prompts.txt", "--seed", "6", *words, output="")


MEMORY = "replay has no --memory; a plan that takes fewer rows a call may move the last bits"
BATCH = "replay draws one picture at a time; above one the last bits may differ (docs/cli.md, --batch)"


def family_drawings(models: Path) -> dict[str, Drawing]:
    """What each model in a folder is asked for; their names say what they can do."""
    table = Table()
    for model in sorted(path for path in models.iterdir() if path.is_dir()):
        _family(table, model.name, ("--model", f"inputs/models/{model.name}", "--steps", "4"))
    return table.drawings


def _family(table: Table, name: str, model: tuple[str, ...]) -> None:
    def draw(what: str, prompt: str, *words: str, **more: Any) -> None:
        table.draw(f"{name}-{what}", prompt, *model, *words, **more)

    long = ", ".join(f"a {colour} cat in a {colour} house" for colour in COLOURS * 3)
    prompt = "a (red:1.3) car [on a road:at sea:0.5], masterpiece"
    image = ("--image", "inputs/small.png")
    mask = ("--mask", "inputs/small-mask.png")
    # Asked for one row at a time, a tiny network ends in one value a channel, which torch refuses to norm.
    wide = ("--size", "128x64")
    if "lcm" in name:
        model = (*model, *wide)
    if "x4" in name:
        for preset in PRESETS:
            draw(f"enlarge-{preset}", prompt, *image, "--preset", preset)
        draw("enlarge-level", prompt, *image, "--noise-level", "50", "--negative-prompt", "blue")
        return
    if "pix2pix" in name or "edit" in name:
        for preset in PRESETS:
            draw(f"edit-{preset}", prompt, *image, "--preset", preset)
        draw("edit-guidance", prompt, *image, "--image-guidance", "2.2", "--sampler", "euler_ancestral")
        return
    for preset in PRESETS:
        draw(preset, prompt, "--preset", preset)
    draw("image", prompt, *image, "--strength", "0.6", "--preset", "diffusers")
    draw("mask", prompt, *image, *mask, "--strength", "0.8", "--preset", "a1111")
    draw("long", long, "--preset", "a1111", "--negative-prompt", "blue", *wide)
    draw("break", "a red car BREAK a house", "--clip-skip", "2", "--sampler", "euler_ancestral")
    draw("hires", prompt, "--hires", "2", "--hires-upscaler", "latent_bicubic", "--hires-strength", "0.6")
    if "lcm" not in name:
        refiner = "inputs/models/sdxl-refiner" if name == "sdxl" else model[1]
        draw("and", "a red car AND a house :0.5", "--refiner", refiner, "--set", "empty_negative=encoded")
    if name in ("sd15", "sdxl"):
        draw("tile", prompt, "--size", "128x64", "--tile", "64")
        draw("tiling", prompt, "--tiling", "x")
        draw("bfloat16", prompt, "--dtype", "bfloat16")
        draw("outpaint", prompt, *image, "--outpaint", "right=64")
        draw("no-guidance", prompt, "--guidance", "1", *wide)


# --- what goes in


def make_inputs(folder: Path, run: "Runner", models: Path | None) -> None:
    """Pictures, masks, texts and networks that the drawings begin with. Everything is the same in every run."""
    inputs = folder / INPUTS
    inputs.mkdir()
    _pictures(inputs)
    _texts(inputs)
    _networks(inputs)
    if models is not None:
        shutil.copytree(models, inputs / "models")
    run("generate", "a red car on a yellow background", "--seed", "7", "--size", "128", "--output", SOURCE)
    run("preprocess", "canny", SOURCE, "--output", EDGES)
    found = json.loads(run("models", "info", "gesso-mini", "--json"))
    run("lora", "merge", "comic", "--into", found["path"], "--out", SECOND)
    run("lora", "resize", "comic", LORA, "--rank", "2", "--model", "gesso-mini")
    run("lora", "convert", "woodcut", "inputs/peft-woodcut.safetensors", "--to", "peft", "--model", "gesso-mini")


def _pictures(inputs: Path) -> None:
    """Drawn by Pillow, without smoothing, so that no version draws them otherwise."""
    photo = Image.new("RGB", (180, 120), "#88bbee")
    rows = np.asarray(photo).copy()
    rows[..., 0] = np.arange(180) * 255 // 180
    rows[..., 2] = (255 - np.arange(120))[:, None]
    photo = Image.fromarray(rows)
    pen = ImageDraw.Draw(photo)
    pen.rectangle((30, 55, 90, 110), fill="#c03020")
    pen.polygon([(20, 55), (60, 20), (100, 55)], fill="#402010")
    pen.ellipse((125, 15, 155, 45), fill="#ffee44")
    photo.save(inputs / "photo.png")
    photo.resize((64, 64), Image.Resampling.BOX).save(inputs / "small.png")
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(photo.size, Image.Resampling.NEAREST))
    clear.save(inputs / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    photo.save(inputs / "turned.jpg", quality=95, exif=exif)
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((45, 30, 100, 95), fill=255)
    mask.save(inputs / "mask.png")
    mask.resize((64, 64), Image.Resampling.NEAREST).save(inputs / "small-mask.png")
    Image.linear_gradient("L").resize((128, 128), Image.Resampling.BOX).save(inputs / "grey-mask.png")
    small = Image.new("L", photo.size)
    ImageDraw.Draw(small).ellipse((115, 10, 160, 55), fill=255)
    small.save(inputs / "photo-mask.png")
    foreign = PngImagePlugin.PngInfo()
    settings = "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 1, Size: 128x128, ENSD: 31337"
    foreign.add_text("parameters", f"a (red:1.2) car\nNegative prompt: blue\n{settings}")
    photo.save(inputs / "foreign.png", pnginfo=foreign)


def _texts(inputs: Path) -> None:
    with (inputs / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("name", "prompt", "negative_prompt"))
        rows.writerow(("garden", "{prompt} on a green background", "blue"))
        rows.writerow(("tail", "a star", ""))
    (inputs / "wildcards").mkdir()
    (inputs / "wildcards" / "colour.txt").write_text("red\nblue\ngreen\nyellow\n", encoding="utf-8")
    lines = (
        "a red car",
        "--prompt 'a blue cat' --steps 4 --seed 11",
        '{"prompt": "a {green|white} house", "num_images": 2}',
    )
    (inputs / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _networks(inputs: Path) -> None:
    """A learned word of two vectors, and an enlarging network (RRDBNet, by two), of numbers that a generator gives."""
    from safetensors.numpy import save_file

    numbers = np.random.Generator(np.random.PCG64(1))

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (numbers.standard_normal(shape) * scale).astype(np.float32)

    save_file({"emb_params": normal(2, WORD_WIDTH, scale=0.3)}, inputs / "spark.safetensors")
    channels, growth = 8, 32
    convs = {"conv_first": (channels, 3), "trunk_conv": (channels, channels), "upconv1": (channels, channels)}
    convs |= {"HRconv": (channels, channels), "conv_last": (3, channels)}
    for dense in range(1, 4):
        for conv in range(1, 6):
            out = growth if conv < 5 else channels
            convs[f"RRDB_trunk.0.RDB{dense}.conv{conv}"] = (out, channels + (conv - 1) * growth)
    weights = {}
    for name, (out, into) in convs.items():
        weights[f"{name}.weight"] = normal(out, into, 3, 3, scale=0.4 / into**0.5)
        weights[f"{name}.bias"] = normal(out, scale=0.05)
    save_file(weights, inputs / "enlarger.safetensors")


WORD_WIDTH = 192  # of the vectors that gesso-mini's text model takes


# --- how commands are run

Runner = Callable[..., str]


class CommandError(Exception):
    """A command ended with another code than 0."""


class Worker:
    """A process that runs commands of gesso one after the other, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, words: Sequence[str]) -> tuple[int, str, str]:
        """Exit code, stdout and stderr. A process that dies is one that failed; the next command has a new one."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(list(words)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = process.wait()
            self._process = None
            return code or 1, "", f"the process ended with {code}"
        code, out, err = json.loads(answer)
        return code, out, err

    def close(self) -> None:
        """End the process; a later command starts another."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "serve"],
            cwd=self.folder,
            env=variables(self.folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


def variables(folder: Path) -> dict[str, str]:
    """The environment of a command: one thread, a library of its own, and the code that PYTHONPATH names from here."""
    found = os.environ | {"GESSO_HOME": str(folder / HOME), "PYTHONIOENCODING": "utf-8"}
    found |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    found.pop("GESSO_DEBUG", None)
    if path := found.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(str(Path(part).resolve()) for part in path.split(os.pathsep))
    return found


def which_gesso(folder: Path) -> str:
    """The folder of the package that commands run."""
    code = "import gesso; print(gesso.__path__[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables(folder), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def serve() -> None:
    """Run the commands that come in on stdin, a JSON list of words a line, as `python -m gesso` would."""
    sys.path[0] = ""  # as -m has it, in place of the folder of this script
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what is printed past Python must not get between the answers
    for line in sys.stdin:
        sys.argv = ["gesso", *json.loads(line)]
        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                runpy.run_module("gesso", run_name="__main__", alter_sys=True)
            except SystemExit as end:
                code = end.code
            except BaseException as error:
                code = f"{type(error).__name__}: {error}"
        number = code if isinstance(code, int) else 0 if code is None else 1
        said = err.getvalue() + (code if isinstance(code, str) else "")
        try:
            print(json.dumps([number, out.getvalue(), said]), file=answers, flush=True)
        except BrokenPipeError:  # whoever asked was stopped
            os._exit(1)


def in_parallel(
    items: Iterable[T], work: Callable[[Worker, T], R], folder: Path, *, jobs: int
) -> Iterator[tuple[T, R]]:
    """work(worker, item) for every item, with one worker for each of the jobs; in the order in which they are done."""
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    count = 0
    for item in items:
        waiting.put(item)
        count += 1
    done: queue.SimpleQueue[tuple[T, R] | BaseException] = queue.SimpleQueue()

    def loop() -> None:
        worker = Worker(folder)
        try:
            while True:
                item = waiting.get_nowait()
                done.put((item, work(worker, item)))
        except queue.Empty:
            pass
        except BaseException as error:
            done.put(error)
        finally:
            worker.close()

    for _ in range(jobs):
        threading.Thread(target=loop, daemon=True).start()
    for _ in range(count):
        found = done.get()
        if isinstance(found, BaseException):
            raise found
        yield found


def draw(worker: Worker, drawing: Drawing, into: Path, *, fresh: bool) -> str | None:
    """Run the command, with its pictures in that folder; what went wrong, or None."""
    if fresh or drawing.fresh:
        worker.close()
    into.mkdir(parents=True)
    words = [word.replace("{folder}", str(into)) for word in drawing.words]
    code, _, err = worker.run(
        [*words, "--output", str(into / drawing.output), *QUIET.get(drawing.words[0], ["--quiet"])]
    )
    if fresh or drawing.fresh:
        worker.close()
    return None if code == 0 else f"exit code {code}: {err.strip()[-400:]}"


QUIET: dict[str, list[str]] = {"preprocess": []}  # what says nothing anyway has no such option


# --- what is remembered of a picture


def pictures_in(folder: Path) -> list[Path]:
    """All pictures of a drawing, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS)


def digest(path: Path) -> tuple[str, str]:
    """SHA-256 of mode, size and pixels, and of the texts beside them."""
    with Image.open(path) as image:
        image.load()
        pixels = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
        pixels.update(image.tobytes())
        texts = hashlib.sha256()
        for name, text in sorted(image.info.items()):
            if isinstance(text, str | bytes) and name != "icc_profile":
                texts.update(f"{name}\n".encode() + (text.encode() if isinstance(text, str) else text) + b"\n")
    return pixels.hexdigest(), texts.hexdigest()


def replay_words(words: Sequence[str]) -> list[str]:
    """What `gesso replay` must be told of a drawing: the files that it had and that the library does not know."""
    found: list[str] = []
    copied = ("--image", "--mask", "--refiner", "--unet", "--vae", "--embedding", "--hint", "--model")
    hints: dict[str, None] = {}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        if word in copied:
            found += [word, value]
        elif word == "--mask-invert":
            found.append(word)
        elif word == "--lora" and "/" in value:
            found += [word, value.partition(":")[0]]
        elif word == "--hires-upscaler" and "/" in value:
            found += ["--upscaler", value]
        elif word == "--control":
            network, *settings = value.split(",")
            hints |= {part.removeprefix("image="): None for part in settings if part.startswith("image=")}
            found += [word, network] if "/" in network else []
    return found + [word for hint in hints for word in ("--hint", hint)]


@functools.cache
def environment() -> dict[str, str]:
    """What bits depend on besides the code."""
    packages = ("torch", "numpy", "pillow", "safetensors", "opencv-python-headless")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found["processor"] = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
        )
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def chosen(name: str, patterns: str) -> bool:
    """Whether one of the patterns, with commas between them, is for that drawing."""
    return any(fnmatch(name, pattern) for pattern in patterns.split(","))


# --- make


def make(folder: Path, *, jobs: int, fresh: bool, only: str, models: Path | None) -> int:
    """Draw the set, or what is missing of it. A drawing that fails is named and left out. The exit code."""
    manifest = folder / MANIFEST
    if not manifest.exists() and folder.exists() and any(folder.iterdir()):
        print(f"error: {folder} is not empty, and no set is in it", file=sys.stderr)
        return 2
    (folder / HOME).mkdir(parents=True, exist_ok=True)
    folder, manifest = folder.resolve(), manifest.resolve()
    begin = time.perf_counter()
    if not manifest.exists():
        _make_inputs_by_worker(folder, models)
        _write(manifest, [])
    kept = _groups(manifest, "*")
    table = drawings()
    if (folder / INPUTS / "models").exists():
        table |= family_drawings(folder / INPUTS / "models")
    missing = [drawing for drawing in table.values() if drawing.name not in kept and chosen(drawing.name, only)]
    missing.sort(key=lambda drawing: hashlib.sha256(drawing.name.encode()).digest())  # a part of it is of every kind
    failed = 0

    def work(worker: Worker, drawing: Drawing) -> str | None:
        shutil.rmtree(folder / PICTURES / drawing.name, ignore_errors=True)
        return draw(worker, drawing, folder / PICTURES / drawing.name, fresh=fresh)

    for drawing, said in in_parallel(missing, work, folder, jobs=jobs):
        if said is None:
            found = pictures_in(folder / PICTURES / drawing.name)
            kept[drawing.name] = [_keep(folder, drawing, path) for path in found]
            _write(manifest, [entry for name in sorted(kept) for entry in kept[name]])
        else:
            failed += 1
            print(f"{drawing.name}: {said}", flush=True)
    count, seconds = sum(map(len, kept.values())), time.perf_counter() - begin
    print(f"{count} pictures of {len(kept)} drawings in {seconds:.0f} s, {failed} drawings failed")
    return 1 if failed else 0


def _make_inputs_by_worker(folder: Path, models: Path | None) -> None:
    worker = Worker(folder)

    def run(*words: str) -> str:
        code, out, err = worker.run(words)
        if code != 0:
            raise CommandError(f"gesso {' '.join(words)}: {err.strip()}")
        return out

    make_inputs(folder, run, models)
    worker.close()


def _write(manifest: Path, pictures: list[Kept]) -> None:
    """At once, so that a set that is cut off is a smaller set."""
    found = {"version": VERSION, "environment": environment(), "pictures": [asdict(kept) for kept in pictures]}
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(manifest)


def _groups(manifest: Path, only: str) -> dict[str, list[Kept]]:
    """The pictures of each drawing of a manifest. Raises ValueError for one of another version."""
    found = json.loads(manifest.read_text(encoding="utf-8"))
    if found.get("version") != VERSION:
        raise ValueError(f"{manifest} is of another version; make the set again")
    groups: dict[str, list[Kept]] = {}
    for entry in found["pictures"]:
        kept = Kept(**entry)
        if chosen(kept.drawing["name"], only):
            groups.setdefault(kept.drawing["name"], []).append(kept)
    return groups


def _keep(folder: Path, drawing: Drawing, path: Path) -> Kept:
    pixels, settings = digest(path)
    place = path.relative_to(folder / PICTURES)
    with_recipe = drawing.recipe and not place.name.startswith(("grid", "preview"))
    return Kept(
        name=place.with_suffix("").as_posix(),
        file=f"{PICTURES}/{place.as_posix()}",
        drawing=asdict(drawing),
        replay=replay_words(drawing.words) if with_recipe else None,
        sha256=pixels,
        settings_sha256=settings,
        expected=drawing.expected,
    )


# --- check


@dataclass
class Outcome:
    """What became of a drawing: for each of its pictures what is not as it was, and whose settings are not."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    expected: dict[str, str] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)


def check(folder: Path, *, jobs: int, fresh: bool, only: str, settings_too: bool, redraw: bool, replay: bool) -> int:
    """Draw and replay the set, say what is not identical, and return the exit code."""
    folder = folder.resolve()
    groups = _groups(folder / MANIFEST, only)
    made_with = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["environment"]
    for name, value in environment().items():
        if made_with.get(name) != value:
            print(f"note: {name} is {value}, the pictures were made with {made_with.get(name)}")
    print(f"checking {which_gesso(folder)}", flush=True)
    begin = time.perf_counter()
    wrong, as_expected, settings = 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:

        def work(worker: Worker, group: list[Kept]) -> Outcome:
            outcome = Outcome()
            if redraw:
                _redraw(worker, group, Path(scratch), outcome, fresh=fresh)
            if replay:
                for kept in group:
                    _replay(worker, kept, outcome, fresh=fresh)
            return outcome

        for number, (_, outcome) in enumerate(in_parallel(groups.values(), work, folder, jobs=jobs), 1):
            if number % 50 == 0:
                print(f"{number} of {len(groups)} drawings", file=sys.stderr, flush=True)
            for name, reasons in outcome.wrong.items():
                print(f"NOT IDENTICAL {name}: {'; '.join(reasons)}", flush=True)
            for name, said in outcome.expected.items():
                print(f"as expected {name}: {said}", flush=True)
            for name in outcome.settings:
                print(f"settings in the file differ: {name}", flush=True)
            wrong, as_expected = wrong + len(outcome.wrong), as_expected + len(outcome.expected)
            settings += len(outcome.settings)
    total = sum(len(group) for group in groups.values())
    replayed = sum(kept.replay is not None for group in groups.values() for kept in group)
    details = f"{replayed if replay else 0} replayed, {as_expected} of them not identical for a stated reason"
    details += f"; the settings in {settings} files differ" if settings else ""
    print(f"{total - wrong} identical, {wrong} not ({details}; {time.perf_counter() - begin:.0f} s)")
    return 1 if wrong or not total or (settings and settings_too) else 0


def _redraw(worker: Worker, group: list[Kept], scratch: Path, outcome: Outcome, *, fresh: bool) -> None:
    drawing = Drawing(**group[0].drawing)
    into = scratch / drawing.name
    said = draw(worker, drawing, into, fresh=fresh)
    wanted = {Path(kept.file).relative_to(PICTURES, drawing.name).as_posix(): kept for kept in group}
    found = {path.relative_to(into).as_posix(): path for path in pictures_in(into)}
    for place, kept in wanted.items():
        if said is not None or place not in found:
            outcome.wrong.setdefault(kept.name, []).append(f"not drawn again: {said or 'the file is missing'}")
            continue
        pixels, settings = digest(found[place])
        if pixels != kept.sha256:
            outcome.wrong.setdefault(kept.name, []).append(
                f"drawn again, it has other pixels: {_gap(found[place], worker.folder / kept.file)}"
            )
        elif settings != kept.settings_sha256:
            outcome.settings.append(kept.name)
    for place in sorted(found.keys() - wanted.keys()):
        outcome.wrong.setdefault(f"{drawing.name}/{place}", []).append("a picture that was not there before")
    shutil.rmtree(into)


def _gap(drawn: Path, kept: Path) -> str:
    """How far the new picture is from the kept one."""
    with Image.open(drawn) as new, Image.open(kept) as old:
        if (new.mode, new.size) != (old.mode, old.size):
            return f"{new.mode} {new.width}x{new.height} in place of {old.mode} {old.width}x{old.height}"
        gaps = np.abs(np.asarray(new, dtype=np.int64) - np.asarray(old, dtype=np.int64))
    return f"by up to {gaps.max()} levels, {100 * (gaps > 0).mean():.3g} % of the values"


def _replay(worker: Worker, kept: Kept, outcome: Outcome, *, fresh: bool) -> None:
    if kept.replay is None:
        return
    if fresh:
        worker.close()
    code, out, err = worker.run(["replay", kept.file, *kept.replay, "--tolerance", "0", "--json", "--quiet"])
    try:
        verdict = json.loads(out)
    except ValueError:
        verdict = {}
    if "verdict" not in verdict:
        outcome.wrong.setdefault(kept.name, []).append(f"replay ended with {code}: {(err or out).strip()[-400:]}")
        return
    if code == 0 and verdict["verdict"] == "identical" and not verdict["edited"]:
        return
    said = f"replay says {verdict['verdict']}, by up to {verdict['levels']} levels in {100 * verdict['share']:.3g} %"
    said += "".join(f", changed: {line}" for line in verdict["changed"]) + (", edited" if verdict["edited"] else "")
    if kept.expected and verdict["verdict"] != "identical":
        outcome.expected[kept.name] = f"{said} ({kept.expected})"
    else:
        outcome.wrong.setdefault(kept.name, []).append(said)


# --- the command line of this script


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 something is not identical or was not drawn, 2 wrong input."""
    parser = argparse.ArgumentParser(description="Keep a set of pictures and see whether it is still drawn the same.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{make,check}")
    for name, said in (
        ("make", "draw the set into an empty folder, or go on with one that was cut off"),
        ("check", "draw it again and compare"),
    ):
        one = commands.add_parser(name, help=said, description=said)
        one.add_argument("folder", type=Path)
        one.add_argument("--jobs", type=int, default=1, help="processes that draw at the same time, one thread each")
        one.add_argument("--fresh", action="store_true", help="a process of its own for every command")
        one.add_argument("--only", default="*", metavar="PATTERNS", help="drawings, such as 'mask-*,tile'")
        if name == "make":
            one.add_argument("--models", type=Path, help="folder of small models of other families")
        else:
            one.add_argument("--settings", action="store_true", help="settings in the files count as well")
            one.add_argument("--no-redraw", action="store_true", help="replay alone")
            one.add_argument("--no-replay", action="store_true", help="draw from the words alone: half the time")
    commands.add_parser("serve")
    given = parser.parse_args(argv)
    if given.command == "serve":
        serve()
        return 0
    if given.command == "make":
        return make(given.folder, jobs=given.jobs, fresh=given.fresh, only=given.only, models=given.models)
    if not (given.folder / MANIFEST).is_file():
        parser.error(f"{given.folder}: no {MANIFEST} in it; make the set first")
    return check(
        given.folder,
        jobs=given.jobs,
        fresh=given.fresh,
        only=given.only,
        settings_too=given.settings,
        redraw=not given.no_redraw,
        replay=not given.no_replay,
    )


if __name__ == "__main__":
    sys.exit(main())
