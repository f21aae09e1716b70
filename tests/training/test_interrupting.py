"""Ctrl-C at any moment of a training: a whole state, exit code 130, and one line that says how to go on."""

import random
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from gesso.cli.main import run
from gesso.mini import controlnet, style_lora
from gesso.mini.controlnet import CPU_CONTROL
from gesso.mini.recipes import RECIPES
from gesso.mini.style_lora import CPU_LORA
from gesso.scenes.glyphs import save_atlas
from gesso.scenes.vocabulary import things
from gesso.training import loop
from gesso.training.interrupting import interrupts_held
from gesso.training.loop import fit, load_state
from toy_training import SMALL, glyphs
from training.test_loop import Line, plan

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals of POSIX")


@pytest.fixture(autouse=True)
def _ctrl_c():
    """Python's own, as in a terminal, whatever the tests run under."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# ---- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_at_a_random_moment_the_state_is_whole_and_ends_with_the_same_bits(tmp_path, seed):
    begin = time.monotonic()
    whole = fit(Line(), plan(1600), tmp_path / "whole")
    took = time.monotonic() - begin
    previous = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    interrupts = 0
    while True:
        delay = random.Random(seed + interrupts).uniform(0.1, 0.8) * took
        signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-4))
        try:
            try:
                resumed = fit(Line(), plan(1600), tmp_path / "cut")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            break
        except KeyboardInterrupt:  # perhaps just when it was done
            interrupts += 1
        if (path := tmp_path / "cut" / "last.pt").exists():
            state = load_state(path)
            assert state["samples"] == 8 * state["step"]
        if interrupts == 3:  # enough for this test: the rest is undisturbed
            resumed = fit(Line(), plan(1600), tmp_path / "cut")
            break
    signal.signal(signal.SIGALRM, previous)
    for name, value in whole["line"].items():
        assert torch.equal(resumed["line"][name], value)


class Stopped(Line):
    """Gets Ctrl-C inside a step, `times` times."""

    def __init__(self, at, times=1):
        super().__init__()
        self.at, self.times = at, times

    def loss(self, step, batch_size, seed):
        if step == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().loss(step, batch_size, seed)


def test_the_step_is_finished_and_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(Stopped(7), plan(1600), tmp_path)
    assert load_state(tmp_path / "last.pt")["step"] == 8
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_one_ends_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(Stopped(7, times=2), plan(1600), tmp_path)
    assert not (tmp_path / "last.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_and_ignored_signals_are_left_alone(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(Line(), plan(80), tmp_path)))
    thread.start()
    thread.join()
    assert len(found) == 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_held() as came:
        signal.raise_signal(signal.SIGINT)
        assert not came()


# ---- the commands ----------------------------------------------------------------------------------------------------


def quick(stage):
    return replace(stage, batch_size=4, total_samples=24, warmup_samples=1, learning_rate=1e-2, ema_decay=0.5)


@pytest.fixture
def command(request, tmp_path, monkeypatch):
    """The words of a training of six steps a stage, which write into the folder that is named last."""
    lora = replace(CPU_LORA, pool_size=16, precision="float32", report_pictures=4, denoising=quick(CPU_LORA.denoising))
    monkeypatch.setattr(style_lora, "CPU_LORA", replace(lora, encoding=quick(lora.encoding)))
    control = replace(CPU_CONTROL, pool_size=16, precision="float32", report_pictures=4, plan=quick(CPU_CONTROL.plan))
    monkeypatch.setattr(controlnet, "CPU_CONTROL", control)
    monkeypatch.setitem(RECIPES, "toy", SMALL)
    objects = things()
    save_atlas(tmp_path / "atlas.png", np.resize(glyphs(), (len(objects), 128, 128, 4)), objects)
    kinds = {
        "lora": ["style", "comic", str(tmp_path / "made.safetensors"), "--rank", "2"],
        "controlnet": ["edges", str(tmp_path / "made.safetensors")],
        "default-model": ["default-model", "--recipe", "toy", "--rehearsal"],
    }
    return ["train", *kinds[request.param], "--atlas", str(tmp_path / "atlas.png"), "--folder"]


def interrupted_at(step, monkeypatch):
    """Ctrl-C in the middle of the step of that number, counted over all stages."""
    count = iter(range(10**6))
    update = loop.MovingAverage.update

    def stop(self, *arguments, **settings):
        if next(count) == step:
            signal.raise_signal(signal.SIGINT)
        update(self, *arguments, **settings)

    monkeypatch.setattr(loop.MovingAverage, "update", stop)


@pytest.mark.parametrize(
    ("command", "step"),
    [
        pytest.param("lora", 2, marks=pytest.mark.slow),
        pytest.param("lora", 8, marks=pytest.mark.slow),
        ("default-model", 5),
        pytest.param("controlnet", 3, marks=pytest.mark.slow),
    ],
    indirect=["command"],
)
def test_a_command_says_how_to_go_on_and_does(command, step, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted_at(step, patch)
        assert run([*command, str(folder)]) == 130
    place = folder / "rehearsal" if "--rehearsal" in command else folder
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interrupted")]
    assert told == [f"interrupted: run the same command again to continue from {place}"]
    assert not (tmp_path / "made.safetensors").exists()
    assert run([*command, str(folder)]) == 0
    made = {path.relative_to(folder): load_state(path) for path in folder.rglob("last.pt")}
    assert run([*command, str(tmp_path / "whole"), *(["--overwrite"] if "--rehearsal" not in command else [])]) == 0
    whole = {path.relative_to(tmp_path / "whole"): load_state(path) for path in (tmp_path / "whole").rglob("last.pt")}
    assert made.keys() == whole.keys()
    for name, state in whole.items():
        assert (made[name]["step"], made[name]["samples"]) == (state["step"], state["samples"])
        for module, weights in state["average"].items():
            for key, value in weights.items():
                assert torch.equal(made[name]["average"][module][key], value), (name, module, key)


@pytest.mark.parametrize("command", ["lora"], indirect=True)
def test_before_the_first_state_there_is_nothing_to_go_on_from(command, tmp_path, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(style_lora.StyleLora, "__init__", stop)
    assert run([*command, str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: nothing was trained yet"
