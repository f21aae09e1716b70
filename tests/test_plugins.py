"""The example package of plug-ins, installed as users install it, used from the command line and from Python.

Everything runs in processes of its own: there the package lies on the path, here it does not.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gesso.pictures.picture_file import read_recipe

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "gesso-example-plugin"
NAMES = {
    "SAMPLERS": "ralston",
    "SCHEDULES": "cosine",
    "FAMILIES": "sd15-hyper",
    "PREPROCESSORS": "posterize",
    "UPSCALERS": "scale2x",
    "DIALECTS": "bang",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into, by pip and offline."""
    base = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, base / "source")  # a build leaves files beside what it builds
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(base / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return base / "site"


def environment(*paths: Path, **variables: str) -> dict[str, str]:
    path = os.pathsep.join([str(path) for path in (*paths, ROOT / "src", ROOT / "tests")])
    return os.environ | {"PYTHONPATH": path} | variables


def gesso(*words: str, cwd: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """The real command line, in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "gesso", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def drawn(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that takes four plug-ins, drawn by the command line."""
    folder = tmp_path_factory.mktemp("drawn")
    words = [
        "a red!! car",
        "--sampler",
        "Ralston",
        "--schedule",
        "cos",
        "--syntax",
        "bang",
        "--steps",
        "2",
        "-S",
        "7",
        "--size",
        "128",
    ]
    words += ["--hires", "2", "--hires-upscaler", "scale2x", "--hires-steps", "2", "-o", "car.png", "--quiet"]
    done = gesso("generate", *words, cwd=folder, env=environment(installed))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "car.png"


def test_a_picture_drawn_with_plug_ins_names_them(drawn: Path):
    recipe = read_recipe(drawn)  # here, without the package
    request = recipe.request
    assert (request.sampler, request.schedule, request.conventions.syntax) == ("ralston", "cosine", "bang")
    assert request.hires is not None
    assert request.hires.upscaler == "scale2x"
    assert recipe.environment.plugins == ("gesso-example-plugin 0.1.0",)
    with Image.open(drawn) as image:
        assert image.size == (256, 256)
        assert "Sampler: Ralston, Schedule type: Cosine" in image.info["parameters"]
    assert np.asarray(Image.open(drawn)).std() > 10


@pytest.mark.slow
def test_replay_without_the_plug_in_says_what_to_install(drawn: Path):
    done = gesso("replay", drawn.name, cwd=drawn.parent, env=environment())
    assert done.returncode == 2
    assert "drawn with plug-ins of 'gesso-example-plugin 0.1.0', which is not installed" in done.stderr
    assert done.stderr.count("\n") == 1


API = """
import dataclasses, json, sys
from pathlib import Path
from PIL import Image
import gesso

assert not {"gesso_example_plugin", "importlib.metadata"} & sys.modules.keys()
NAMES = json.loads(sys.argv[1])
for table, name in NAMES.items():
    registry = getattr(gesso, table)
    builtin = list(registry.builtin)
    assert registry.origin(name) == "gesso-example-plugin 0.1.0"
    assert "gesso_example_plugin" not in sys.modules or table != "SAMPLERS"  # named, not yet imported
    assert list(registry) == [*builtin, name], registry
    assert registry[name] is registry[registry.find(name.upper())]

# Replayed with the package there, the picture is the same.
from gesso.cli.main import run
assert run(["replay", "car.png", "--quiet"]) == 0
assert run(["preprocess", "posterise", "car.png", "--set", "bits=1", "-o", "hint.png"]) == 0
assert run(["upscale", "hint.png", "--model", "epx", "-o", "large.png", "--quiet"]) == 0
assert run(["preprocess", "posterize", "car.png", "--set", "bits=9"]) == 2
assert run(["generate", "x", "--sampler", "ralston", "--eta", "0.5"]) == 2

hint = gesso.preprocess("posterize", Image.open("car.png"), parameters={"bits": 1})
assert hint.tobytes() == Image.open("hint.png").tobytes()
assert {level for _, color in hint.getcolors() for level in color} <= {0, 128}
assert gesso.upscale(hint, upscaler="Scale2x").tobytes() == Image.open("large.png").tobytes()

# The family: a tiny model with the settings of the plug-in.
from tiny_sd import TINY_SD, save_tiny_folder
model = gesso.Engine("cpu").load(save_tiny_folder(Path("tiny"), TINY_SD), family="sd15-hyper")
assert (model.family.name, model.family.defaults.num_steps) == ("sd15-hyper", 8)

# What a plug-in raises names it.
ralston = gesso.SAMPLERS["ralston"]
def broken(x, sigmas, noise=None):
    yield gesso.ModelCall(x, float(sigmas[0]), 0)
    raise ZeroDivisionError("of its own")
gesso.SAMPLERS._loaded["ralston"] = dataclasses.replace(ralston, function=broken)
assert run(["generate", "a car", "--sampler", "ralston", "--steps", "2", "--quiet", "-o", "no.png"]) == 2
print("done")
"""


def test_from_python_and_all_tables(drawn: Path, installed: Path):
    command = [sys.executable, "-W", "error", "-c", API, json.dumps(NAMES)]
    env = environment(installed)
    done = subprocess.run(command, cwd=drawn.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out, errors = done.stdout.splitlines(), done.stderr.splitlines()
    assert (out[0], out[-1]) == ("identical", "done")
    assert [line.partition(":")[0] for line in errors] == ["error"] * 3
    assert "bits is 9.0, expected 1 to 8" in errors[0]
    assert "eta 0.5: the sampler ralston takes no eta" in errors[1]
    assert "plug-in 'ralston' of gesso-example-plugin 0.1.0 (gesso.samplers)" in errors[2]
    assert "ZeroDivisionError: of its own" in errors[2]


OFF = """
from gesso.cli.main import run

assert run(["generate", "a red car", "--sampler", "ralston"]) == 2
assert run(["replay", "car.png"]) == 2
"""


@pytest.mark.slow
def test_plug_ins_can_be_switched_off(drawn: Path, installed: Path):
    """For a drawing, and for a replay, which says so."""
    command, env = [sys.executable, "-W", "error", "-c", OFF], environment(installed, GESSO_PLUGINS="0")
    done = subprocess.run(command, cwd=drawn.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawing, replay = done.stderr.splitlines()
    assert "unknown sampler 'ralston'" in drawing
    assert "gesso-example-plugin 0.1.0', and GESSO_PLUGINS switches plug-ins off" in replay


TOYS = """
import sys
from gesso import ModelCall, Sampler

if __name__ == "toys_exit":
    sys.exit(5)


def wrong(x, sigmas, noise=None):
    yield 3


def blank(x, sigmas, noise=None):
    yield ModelCall(x, float(sigmas[0]), 0)
    return x * float("nan")


def astray(x, sigmas, noise=None):
    yield ModelCall(x / 0, float(sigmas[0]), 0)


def none(x, sigmas, noise=None):
    yield ModelCall(x, float(sigmas[0]), 0)


def small(x, sigmas, noise=None):
    yield ModelCall(x[..., :2], float(sigmas[0]), 0)


def leaves(x, sigmas, noise=None):
    yield ModelCall(x, float(sigmas[0]), 0)
    sys.exit(6)


def function(x, sigmas, noise=None):
    return x


ROWS = {name: Sampler(f"A {name} one", each, order=1, stochastic=False) for name, each in list(globals().items())
        if callable(each) and each not in (ModelCall, Sampler)}
wrong, blank, astray, none, small, leaves, function = ROWS.values()
thief = Sampler("Euler a", function, order=1, stochastic=False)
"""
FAULTS = {
    "wrong": "yielded a int, expected a ModelCall",
    "blank": "returned NaN or infinity, though the model gave none",
    "astray": "yielded NaN or infinity",
    "none": "returned x as a NoneType, expected a tensor",
    "small": "yielded x of shape [1, 4, 4, 2], expected [1, 4, 4, 4]",
    "leaves": "it ended the program (SystemExit: 6)",
    "function": "its function returned a Tensor, expected a generator",
    "thief": "its name 'Euler a' belongs to the built-in 'euler_ancestral'",
    "exit": "it ended the program (SystemExit: 5)",
}
DRAW = """
import json, sys
import gesso
from gesso.cli.main import run

draw = ["generate", "a car", "--steps", "1", "--size", "64", "-q", "--overwrite", "-o", "car.png", "--sampler"]
assert run([*draw, "DPM++ 2M Karras", "--hires", "2"]) == 0
assert run(["replay", "-q", "car.png"]) == 0
assert not {"toys", "toys_exit"} & sys.modules.keys()
print("built in", file=sys.stderr)
for name in json.loads(sys.argv[1]):
    assert run([*draw, name]) == 2, name
print("listed", file=sys.stderr)
assert run([*draw, "nobody"]) == run([*draw, "nobody"]) == 2
"""


@pytest.mark.slow
def test_a_drawing_imports_the_plug_ins_that_it_uses_and_blames_them_for_their_faults(tmp_path: Path):
    (tmp_path / "toys.py").write_text(TOYS)
    (tmp_path / "toys_exit.py").write_text(TOYS)
    info = tmp_path / "toys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    rows = [f"{name} = toys:{name}" for name in FAULTS if name != "exit"]
    (info / "entry_points.txt").write_text("\n".join(["[gesso.samplers]", "exit = toys_exit:function", *rows]))
    command = [sys.executable, "-W", "error", "-c", DRAW, json.dumps(list(FAULTS))]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stderr.partition("built in\n")
    assert before == ""
    blamed, _, listed = after.partition("listed\n")
    for line, (name, fault) in zip(blamed.splitlines(), FAULTS.items(), strict=True):
        assert line.startswith(f"error: plug-in {name!r} of toys 1.0 (gesso.samplers) cannot be used: ")
        assert fault in line
    assert [line.partition(":")[0] for line in listed.splitlines()] == ["warning", "warning", "error", "error"]
