"""The limits and the borrowed numbers of the core, written down a second time.

Most tests of a limit take it from the module, so that a limit that has moved would pass them. But who lowers one
refuses files, prompts and requests that worked before, and who raises one lets a hostile file take more of the machine:
that is to be done on purpose, here too, with a look at the comment beside the constant and at SECURITY.md.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "gesso"
ROOMS = ("adapters", "checkpoints", "diffusion", "families", "pictures", "pipelines", "request", "runtime", "text")

LIMITS: dict[str, dict[str, Any]] = {
    "adapters.attaching": {"MAX_STRENGTH": 1000.0},
    "adapters.dialects": {"MAX_WORDS": 32},
    "adapters.kinds": {"MAX_RANK": 4096, "MAX_ALPHA": 1e6},
    "adapters.settings": {"MAX_PATTERNS": 4096, "MAX_PATTERN": 300, "MAX_REPEATING": 256, "MAX_TERMS": 100},
    "adapters.textual_inversion": {"MAX_VECTORS": 75},
    "checkpoints.clip_vision": {"MAX_LAYERS": 64, "MAX_WIDTH": 8192},
    "checkpoints.config_json": {"MAX_JSON": 4 * 2**20, "MAX_ITEMS": 16},
    "checkpoints.control_loras": {"MAX_RANK": 4096},
    "checkpoints.controlnets": {"MAX_HALVINGS": 6, "MAX_KINDS": 64, "MAX_WIDTH": 4096, "MAX_DEPTH": 12},
    "checkpoints.gguf_file": {"MAX_KEYS": 10_000, "MAX_ARRAY": 500_000, "MAX_TEXT": 2**20, "MAX_DIMS": 4},
    "checkpoints.ip_adapters": {"MAX_TOKENS": 1024, "MAX_LAYERS": 64, "MAX_WIDTH": 8192},
    "checkpoints.safetensors_file": {"MAX_METADATA": 12 * 2**20, "_MAX_PARTS": 16 * 20_000 + 2**20},
    "checkpoints.safetensors_layout": {
        "MAX_HEADER": 16 * 2**20,
        "MAX_TENSORS": 20_000,
        "MAX_DIMS": 8,
        "MAX_SIDE": 2**31,
        "MAX_NAME": 512,
    },
    "checkpoints.sharded": {"MAX_SHARDS": 1000},
    "checkpoints.t2i_adapters": {"MAX_BLOCKS": 16, "MAX_WIDTH": 8192},
    "checkpoints.torch_file": {"MAX_EXPANSION": 4, "MAX_STRIDED": 256 * 2**20},
    "checkpoints.torch_zip": {"MAX_MEMBERS": 100_000, "MAX_DIRECTORY": 32 * 2**20},
    "checkpoints.upscalers": {"MAX_ENLARGEMENTS": 4, "MAX_SCALE": 8, "MAX_BLOCKS": 64, "MAX_CONVS": 128},
    "families.encoding": {"MAX_DOWNWEIGHTED": 32},
    "families.gesso_mini": {"MAX_OBJECTS": 10_000, "MAX_SYNONYMS": 100, "MAX_WORD": 100},
    "families.prediction": {"MAX_YAML": 64 * 1024},
    "pictures.colour_profile": {"MAX_PROFILE": 4 * 2**20},
    "pictures.grid_sheet": {"MAX_SIDE": 16_384, "MIN_CELL": 32},
    "pictures.infotext_reading": {"MIN_PAIRS": 3},
    "pictures.picture_file": {"MAX_FILE_BYTES": 256 * 2**20, "MAX_RECIPE_BYTES": 2**20},
    "pictures.png_chunks": {"MAX_CHUNKS": 100_000},
    "pictures.png_rows": {"MAX_SIDE": 2**31 - 1},
    "pictures.reading": {"MAX_INPUT_PIXELS": 16 * 2048 * 2048, "MAX_INPUT_SIDE": 16_384},
    "pipelines.adapters": {"MAX_EMBEDDINGS": 64},
    "pipelines.framing": {"MAX_COVER": 16},
    "pipelines.prompt_reading": {"MAX_TEXTS": 64, "MAX_NOTES": 2**16, "MAX_TRIGGER": 500},
    "pipelines.prompts": {"MAX_CUT": 80, "MAX_TEXT_NOTICES": 16, "MAX_ENCODED_CHUNKS": 512},
    "pipelines.text_to_image": {"MAX_SHOWN": 6},
    "pipelines.upscaling": {"MAX_PASSES": 3},
    "pipelines.vocabulary": {"MAX_NAMED": 8, "MAX_NOTICE_WORD": 40, "MAX_READ": 200},
    "request.axes": {"MAX_VALUES": 256, "MAX_CELLS": 10_000},
    "request.checks": {
        "MAX_PROMPT_CHARS": 32_000,
        "MAX_SIDE": 4096,
        "MAX_STEPS": 1000,
        "MAX_GUIDANCE": 100.0,
        "MAX_SEED": 2**64 - 1,
        "MAX_NOISE_LEVEL": 999,
        "MAX_SIGMA": 1e6,
        "MAX_NAME": 64,
        "MAX_FILE_NAME": 255,
        "MAX_JSON_CHARS": 1_000_000,
    },
    "request.environment": {"MAX_TEXT": 4096},
    "request.groups": {"MAX_MASK_BLUR": 256.0},
    "request.hires": {"MAX_STRETCH": 4},
    "request.parts": {
        "MAX_STRENGTH": 100.0,
        "MAX_LORAS": 32,
        "MAX_CONTROLS": 16,
        "MAX_PARAMETERS": 16,
        "MAX_PARAMETER": 2.0**32,
        "MAX_SCALE": 16.0,
    },
    "request.prompt_file": {"MAX_LINES": 10_000, "MAX_BYTES": 64 * 2**20},
    "request.recipe": {"MAX_FILES": 64, "MAX_NOTICES": 64},
    "request.request": {"MAX_PIXELS": 2048 * 2048, "MAX_IMAGES": 1000, "MAX_INDEX": 2**31 - 1, "MAX_CLIP_SKIP": 32},
    "request.resolving": {"MIN_TILE": 8},
    "runtime.adapter_cache": {"MAX_NBYTES": 2 * 2**30, "MAX_READ": 256, "MAX_REMEMBERED": 4096},
    "runtime.engine": {"MAX_CONTROLS": 4},
    "runtime.kernels": {"MAX_HEAD": 512},
    "runtime.tiling": {"MIN_TILE": 16},
    "runtime.upscaling": {"MIN_TILE": 16},
    "text.byte_pairs": {"MAX_FILE_BYTES": 32 * 2**20},
    "text.chunks": {"MAX_CHUNKS": 128},
    "text.compel": {"MAX_PARTS": 32},
    "text.grammar": {"MAX_SUBPROMPTS": 32, "MAX_BREAKS": 128, "MAX_NETWORKS": 16, "MAX_NAME": 128, "MAX_POINTS": 64},
    "text.prompt": {"MAX_CHARS": 32_000, "MAX_WEIGHT": 10.0},
    "text.schedule": {"MAX_SCHEDULES": 256, "MAX_PLANNED_CHARS": 320_000, "_MAX_NUMBER": 32},
    "text.words": {"MAX_WORD_BYTES": 48},
}

# Numbers of other tools, of papers and of file formats, and what users were promised.
BORROWED: dict[str, dict[str, Any]] = {
    "checkpoints.foreign": {"START": 512},
    "checkpoints.hashing": {"_V1_START": 0x100000, "_V1_LENGTH": 0x10000},  # A1111's short hash
    "checkpoints.native": {"VERSION": 1},
    "checkpoints.torch_file": {"STACKED_VERSION": 1001},  # torch.serialization.PROTOCOL_VERSION
    "checkpoints.torch_zip": {"_UTF8": 0x800, "_DESCRIPTOR": 8, "_ZIP64": 45},  # PKWARE's APPNOTE 4.4
    "diffusion.conventions": {"CFGPP_SCALE": 0.08},  # A1111's DDIM CFG++: the scale / 12.5
    "diffusion.torchsde_tree": {"_DIGITS": 6, "_POOL": 24},  # k-diffusion's tolerance, torchsde's default
    "families.encoding": {"AESTHETIC_SCORE": 6.0, "NEGATIVE_AESTHETIC_SCORE": 2.5, "CHUNKS_AT_ONCE": 16},
    "families.native_control": {"VERSION": 1, "FORMAT": "gesso-controlnet", "KEY": "gesso.control"},
    "pictures.colour_profile": {"SAME": 2},
    "pictures.exif": {
        "DESCRIPTION": 0x010E,
        "MAKE": 0x010F,
        "MODEL": 0x0110,
        "SOFTWARE": 0x0131,
        "ORIENTATION": 0x0112,
        "UPRIGHT": 1,
        "_IFD": 0x8769,
        "_USER_COMMENT": 0x9286,
        "_MAKER_NOTE": 0x927C,
    },
    "pictures.grid_sheet": {"MARGIN": 6, "FONT_SIZE": 14},
    "pictures.picture_file": {"DEFAULT_QUALITY": 90},
    "pictures.png_rows": {"LEVEL": 6, "UP": 2, "COLOUR_TYPES": {3: 2, 4: 6}},
    "pipelines.controls": {
        "SOFT": 0.825,
        "_SOFT_OUTPUTS": 13,
        "_XL_OUTPUTS": 10,  # ControlNet's authors
        "T2I_SOFT": (0.25, 0.62, 0.825, 1.0),
        "GREY": (0.299, 0.587, 0.114),  # A1111's extension; ITU-R 601
    },
    "pipelines.denoising": {"DEIS_SHORT_RUN": 15},
    "pipelines.hint_pictures": {"HOLE": 128},
    "pipelines.inputs": {"FADE": 4},
    "pipelines.steps": {"LONGEST_START": {"pndm": 10.0, "plms": 60.0, "heun": 120.0, "restart": 120.0}},
    "pipelines.unusual_guidance": {"HIGH_GUIDANCE": 30.0},
    "pipelines.upscaling": {
        "REACH": {"nearest": 1, "box": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3},
        "TO_SIZE": "lanczos",
        "BAND": 256,
    },
    "request.groups": {"MASK_PADDING": 32},
    "request.hires": {"DEFAULT_SCALE": 2.0},
    "request.migrations": {"VERSION": 4},
    "request.recipe": {"VERSION": 4},
    "request.request": {"DRAWN_SEED_BITS": 32},
    "request.resolving": {"OUTPAINT_BLUR": 8.0},
    "runtime.mapped": {"_POPULATE_READ": 22, "_ALIGNMENT": 64},  # linux/mman.h
    "runtime.plan": {
        "MIB": 2**20,
        "GIB": 2**30,
        "OVERHEAD": 1.4,
        "SLACK": 128 * 2**20,
        "_UPSCALER_TILES": (256, 128, 64),
        "_NETWORK_TILES": (128, 64, 32),
        "_TILES": (96, 64, 48, 32, 24, 16),
    },
    "runtime.upscaling": {"TILE": 192, "RIM": 16},
    "text.attention": {"STEP": 1.1, "LIMIT": 1e30},
    "text.byte_pairs": {"LENGTH": 77, "NUM_MERGES": 48_894, "CLIP_SIZE": 49_408},
    "text.chunks": {"BACKTRACK": 20, "LONG_WORD": 8},  # A1111's comma_padding_backtrack; ComfyUI
    "text.compel": {"PLUS": 1.1, "MINUS": 0.9},
    "text.emphasis": {"_LEAST_WEIGHT": 1e-5},
    "text.spelling": {"SHORTEST": 4, "LONGEST": 24},
    "text.tokenizer": {"VERSION": 1},
}


@pytest.mark.parametrize("table", [LIMITS, BORROWED], ids=["limits", "borrowed"])
def test_no_number_has_moved(table: dict[str, dict[str, Any]]):
    now = {
        module: {name: getattr(importlib.import_module(f"gesso.{module}"), name) for name in values}
        for module, values in table.items()
    }
    assert now == table


def test_every_limit_is_in_the_table():
    """Also one that is new: constants that are called MAX_ or MIN_ and are made in the module itself."""
    found: dict[str, set[str]] = {}
    for room in ROOMS:
        for path in sorted((SOURCE / room).rglob("*.py")):
            module = path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
                if limits := {name for name in names if name.lstrip("_").startswith(("MAX_", "MIN_"))}:
                    found.setdefault(module, set()).update(limits)
    assert found == {module: set(values) for module, values in LIMITS.items()}
