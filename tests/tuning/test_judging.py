"""A training is measured and judged on its way, keeps its steps by number, and the best becomes the file."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from gesso.checkpoints.weight_file import open_weights
from gesso.errors import GessoError
from gesso.models.unet import UNet
from gesso.training.loop import load_average, load_state
from gesso.tuning import judging
from gesso.tuning.judge_prompts import judge_prompts, subject_of
from gesso.tuning.judging import best_step, kept_steps, load_kept, read_copies, rows_of_reports, verdict_on
from gesso.tuning.measures import Direction, Measurer
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import TuningSettings
from gesso.tuning.verdict import read_measures
from tiny_models import save_tiny_mini
from tuning.made import save_folder

QUICK = {"rank": 2, "batch_size": 2, "precision": "float32", "steps": 6, "report_every": 2, "learning_rate": 1e-2}
QUICK |= {"sample_steps": 2, "judge_samples": 3, "copy_samples": 4, "samples": True}


def made(place, folder, **changes) -> TuningRun:
    values = QUICK | {"data": str(place / "pictures"), "output": str(folder / "my.safetensors")} | changes
    return TuningRun(TuningSettings(**values), place / "model.safetensors", folder / "run")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    save_tiny_mini(folder / "model.safetensors")
    save_folder(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def looked() -> list[int]:
    """How many pictures the UNet looked at in each call that was not to learn from, while `done` was made."""
    return []


@pytest.fixture(scope="module")
def done(place, tmp_path_factory, looked):
    """A finished run; not to be changed."""
    run = made(place, tmp_path_factory.mktemp("run"))

    def look(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet) and not torch.is_grad_enabled():
            looked.append(len(args[0]))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        assert run.train()
    finally:
        hook.remove()
    return run


@pytest.mark.slow
def test_what_reports_take_is_known_beforehand(done, looked):
    counted = rows_of_reports(done.settings, prompts=2)
    assert sum(looked) <= counted < 2 * sum(looked)  # the model knows few of the words that pictures are compared by
    assert rows_of_reports(replace(done.settings, judge_samples=0), prompts=2) < counted / 2


def test_what_a_run_leaves_behind(done):
    folder = done.folder
    rows = read_measures(folder / "measures.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 6] and kept_steps(folder) == [2, 4, 6]
    for row in rows:
        assert all(len(row[name]) == 3 for name in ("likeness", "nearest", "nearest_place"))
        assert all(math.isfinite(value) for value in (*row["likeness"], *row["drift"], *row["nearest"]))
        assert len(row["seen"]) == 6 and 0.6 <= row["threshold"] <= 1.0
    assert rows[0]["drift"] == [0.0] * len(rows[0]["drift"])  # before the first step nothing has changed
    assert np.mean(rows[-1]["drift"]) > 0
    assert abs(np.mean(rows[0]["likeness"])) < 1e-6 and np.mean(rows[0]["own_likeness"]) == pytest.approx(1, abs=1e-3)
    assert len(list((folder / "judged" / "000004").glob("*.png"))) == 3
    found = read_copies(folder)
    assert found["samples"] == 4 and found["step"] == best_step(folder) and len(found["nearest"]) == 4
    page = (folder / "report.html").read_text()
    assert "<h2>Verdict</h2>" in page and "of 4 pictures that step" in page
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all({"likeness", "drift", "nearest"} <= row.keys() for row in log if "seen" in row)


def test_the_best_step_becomes_the_file(done, tmp_path):
    best = best_step(done.folder)
    assert best == verdict_on(done.folder).best
    written = done.write(tmp_path / "my.safetensors")
    metadata = open_weights(tmp_path / "my.safetensors").metadata
    assert written["step"] == best and metadata["ss_steps"] == str(best)
    assert metadata["gesso.copy_check_samples"] == "4" and 0.6 <= float(metadata["gesso.copy_check_threshold"]) <= 1
    assert int(metadata["gesso.copy_check_copies"]) == read_copies(done.folder)["copies"]
    assert len(json.loads(metadata["gesso.verdict"])["likeness"]) == 3
    other = next(step for step in kept_steps(done.folder) if step != best)
    assert done.write(tmp_path / "other.safetensors", step=other)["step"] == other
    assert "gesso.copy_check_copies" not in open_weights(tmp_path / "other.safetensors").metadata
    again = done.write(tmp_path / "my-again.safetensors")
    assert again["step"] == best
    with pytest.raises(GessoError, match=r"no weights of step 3 are kept\. There are those of 2, 4, 6"):
        done.write(tmp_path / "none.safetensors", step=3)


@pytest.mark.slow
def test_a_finished_run_is_checked_once(done, place, monkeypatch):
    """The same command again reads no weights and draws nothing; with other samples, it looks again."""
    before, page = (done.folder / "copies.json").read_bytes(), (done.folder / "report.html").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(TuningRun, "_parts", lambda run: pytest.fail("the model was read"))
        again = TuningRun(done.settings, done.model, done.folder)
        assert again.train() and (done.folder / "copies.json").read_bytes() == before
        assert (done.folder / "report.html").read_text() == page
    more = TuningRun(replace(done.settings, copy_samples=5), done.model, done.folder)
    assert more.train() and read_copies(done.folder)["samples"] == 5
    assert TuningRun(done.settings, done.model, done.folder).train()
    assert (done.folder / "copies.json").read_bytes() == before


@pytest.mark.slow
def test_the_start_is_drawn_once(place, tmp_path, monkeypatch):
    seeds, real = [], Measurer.draw
    monkeypatch.setattr(Measurer, "draw", lambda self, texts, seed: seeds.append(seed) or real(self, texts, seed))
    run = made(place, tmp_path, copy_samples=0)
    run.train(stop=lambda: True)
    assert sorted(seeds) == [2000, 2000, 4000]  # your prompts, the others, and your prompts from other noise


def test_kept_weights_are_those_of_the_training(done):
    last, average = load_kept(done.folder, 6), load_average(done.folder)
    for name, weights in average.items():
        assert last[name].keys() == weights.keys()
        assert all(torch.equal(last[name][key], value) for key, value in weights.items())


@pytest.mark.slow
def test_measuring_changes_no_bit_of_the_training(done, place, tmp_path):
    plain = made(place, tmp_path, samples=False, judge_samples=0)
    assert plain.train()
    ours, theirs = (load_state(run.folder / "last.pt")["modules"]["factors"] for run in (done, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    row = read_measures(plain.folder / "measures.jsonl")[-1]
    assert row.keys() == {"step", "seen"} and read_copies(plain.folder) is None


@pytest.mark.slow
def test_a_run_that_goes_on_measures_the_same(done, place, tmp_path):
    calls = iter([False] * 3 + [True] * 9)
    assert not made(place, tmp_path).train(stop=lambda: next(calls))
    assert made(place, tmp_path).train()
    assert read_measures(tmp_path / "run" / "measures.jsonl") == read_measures(done.folder / "measures.jsonl")


def test_it_ends_where_later_steps_only_copy(place, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "verdict_of", lambda rows: _stopping(rows))
    run = made(place, tmp_path, steps=40)
    rows = []
    assert run.train(on_log=rows.append)
    assert load_state(run.folder / "last.pt")["step"] == 6
    assert run.is_done
    assert made(place, tmp_path, steps=40).train()  # the same command finds it at its end
    assert load_state(run.folder / "last.pt")["step"] == 6
    on = made(place, tmp_path, steps=8, auto_stop=False)
    assert on.train() and load_state(on.folder / "last.pt")["step"] == 8


def _stopping(rows):
    from dataclasses import replace

    from gesso.tuning.verdict import verdict_of

    found = verdict_of(rows)
    return replace(found, stops=bool(rows) and rows[-1]["step"] >= 6)


@pytest.mark.slow
def test_what_a_roll_back_left_behind_is_forgotten(place, tmp_path):
    run = made(place, tmp_path, copy_samples=0)
    run.train(stop=iter([False, False, False, True]).__next__)
    with (run.folder / "measures.jsonl").open("a") as file:
        file.write('{"step": 500, "seen": [0.1]}\n')
    shutil.copy(run.folder / "steps" / "000002.safetensors", run.folder / "steps" / "000500.safetensors")
    assert made(place, tmp_path, copy_samples=0).train()
    assert [row["step"] for row in read_measures(run.folder / "measures.jsonl")] == [0, 2, 4, 6]
    assert kept_steps(run.folder) == [2, 4, 6]


@pytest.mark.slow
def test_old_weights_go_and_the_best_stays(place, tmp_path):
    run = made(place, tmp_path, keep_steps=2, copy_samples=0)
    assert run.train()
    kept = kept_steps(run.folder)
    assert len(kept) <= 2 and 6 in kept and verdict_on(run.folder).best in kept


def test_where_the_best_step_is_gone_the_next_best_is_the_file(done, tmp_path):
    """A report may make an earlier step the best whose weights went when it was not."""
    folder = tmp_path / "run"
    shutil.copytree(done.folder, folder)
    scores = {one.step: one.score.value for one in verdict_on(folder).steps}
    gone = best_step(folder)
    (folder / "steps" / f"{gone:06d}.safetensors").unlink()
    left = [step for step in scores if step != gone]
    assert best_step(folder) in left and scores[best_step(folder)] == max(scores[step] for step in left)
    for step in left:
        (folder / "steps" / f"{step:06d}.safetensors").unlink()
    assert best_step(folder) is None


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_there(place, tmp_path, monkeypatch):
    run = made(place, tmp_path)
    full = type("Usage", (), {"free": 1000})
    real = shutil.disk_usage
    monkeypatch.setattr(judging.shutil, "disk_usage", lambda path: full if path.name == "steps" else real(path))
    with pytest.raises(GessoError, match=r"no room for weights of .* MiB at step 2; the last state stays") as error:
        run.train()
    assert error.value.code == "disk_full"
    monkeypatch.undo()
    assert made(place, tmp_path).train() and kept_steps(run.folder) == [2, 4, 6]


@pytest.mark.slow
def test_an_embedding_is_judged_by_the_model_without_it(place, tmp_path):
    values = QUICK | {"kind": "embedding", "trigger": "kitty", "data": str(place / "pictures"), "learning_rate": 0.1}
    values |= {"output": str(tmp_path / "kitty.safetensors"), "steps": 2}
    run = TuningRun(TuningSettings(**values), place / "model.safetensors", tmp_path / "run")
    assert run.train()
    assert run.write(tmp_path / "kitty.safetensors")["step"] == 2
    assert "gesso.verdict" in open_weights(tmp_path / "kitty.safetensors").metadata


# ---- prompts and features --------------------------------------------------------------------------------------------


def test_the_subject_of_captions():
    assert subject_of(["a small lobster on a red background", "a lobster on a blue one", "one lobster"]) == "lobster"
    assert subject_of(["a red cat", "a dog", "two birds"]) == ""
    assert subject_of(["a dog on a sofa", "a dog on a sofa", "dog"]) == "dog"
    assert subject_of(["a dog"]) == ""


def test_prompts_put_the_subject_where_no_picture_shows_it():
    captions = ["a lobster on a red background", "a large lobster on a blue background"]
    made = judge_prompts(captions, 6)
    assert len(made.yours) == 6 and made.subject == "lobster"
    assert all(one.text.startswith("a lobster ") and one.judged == one.text for one in made.yours)
    assert "a lobster on a red background" not in [one.text for one in made.yours]
    assert made.others and not any("lobster" in text for text in made.others)
    sks = judge_prompts(["sks dog on a sofa", "sks dog"], 4, trigger="sks dog", class_words="a dog")
    assert sks.yours[0].text.startswith("sks dog ") and sks.yours[0].judged.startswith("a dog ")
    style = judge_prompts(["a cat", "two dogs in a wood", "a house"], 4, trigger="by me")
    assert style.subject == "" and all(one.text.endswith(", by me") for one in style.yours)
    assert len({one.judged for one in style.yours}) == 4
    given = judge_prompts(captions, 3, given=["a lobster in a hat"], knows=lambda text: False)
    assert [one.text for one in given.yours] == ["a lobster in a hat"] * 3


@pytest.mark.parametrize(
    ("captions", "trigger", "first"),
    [
        (
            ["a zorb", "a small zorb on a gray background", "a zorb left of a cat", "a zorb above a car"],
            "zorb",
            "a zorb ",
        ),
        (["zorb sitting on a sofa", "my zorb", "zorb in the snow with a ball"], "zorb", "zorb "),
        (["a cat, zorb", "two dogs in a wood, zorb", "zorb, a house"], "zorb", "a cat "),
        (["a zorb cat", "a zorb house", "a zorb tree on a hill"], "zorb", "a cat "),
        (["a cat in the style of zorb", "a house in the style of zorb"], "zorb", "a cat "),
    ],
)
def test_a_trigger_is_a_thing_where_captions_call_one_by_it(captions, trigger, first):
    made = judge_prompts(captions, 4, trigger=trigger)
    assert made.yours[0].text.startswith(first)
    assert all(trigger in one.text and not set(captions) & {one.text} for one in made.yours)


def test_the_direction_tells_two_groups_apart():
    rng = np.random.default_rng(0)
    base, yours = rng.normal(0, 1, (60, 12)), rng.normal(0, 1, (60, 12))
    yours[:, 3] += 6
    direction = Direction(base[:30], yours[:30])
    assert direction(yours[30:]).min() > direction(base[30:]).max()
    few = Direction(base[:5], yours[:5])  # fewer pictures than features
    assert (few(yours[30:])[:, None] > few(base[30:])[None]).mean() > 0.9
