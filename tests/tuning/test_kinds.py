"""Whole models and embeddings: from a folder to a file that draws, exact when stopped, refused where they don't fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gesso.errors import GessoError
from gesso.families.loading import load_parts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.finder import NamedFiles
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.scenes.vocabulary import things
from gesso.training.loop import load_average, load_state
from gesso.tuning.class_pictures import class_prompts, draw_class_pictures, known_prompts
from gesso.tuning.estimate import estimate
from gesso.tuning.files import check_fits
from gesso.tuning.learners import make_learner
from gesso.tuning.result import result_in
from gesso.tuning.run import TuningRun
from gesso.tuning.settings import TuningSettings, completed, read_settings
from gesso.tuning.vocabulary import load_named
from tiny_models import save_tiny_mini
from tiny_sd import TINY_SD, TINY_SDXL, save_tiny_folder
from tuning.made import double, save_folder

QUICK = {
    "batch_size": 2,
    "precision": "float32",
    "report_every": 100,
    "samples": False,
    "steps": 3,
    "warmup": 0.0,
    "decay": 0.0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    save_tiny_mini(folder / "mini.safetensors")
    save_tiny_folder(folder / "sd", TINY_SD)
    save_folder(folder / "pictures", count=2)
    return folder


def made(root: Path, folder: Path, kind: str, model: str = "mini.safetensors", **changes: object) -> TuningRun:
    name = "teapot" if kind == "embedding" else "mine"
    values = QUICK | {"kind": kind, "data": str(root / "pictures"), "output": str(folder / f"{name}.safetensors")}
    if kind == "embedding":
        values |= {"trigger": "teapot", "learning_rate": 0.1}
    if model == "sd":
        values |= {"resolution": 64}
    return TuningRun(TuningSettings(**(values | changes)), root / model, folder / "run")  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["mini.safetensors", "sd"])
@pytest.mark.sampled(2)
def test_a_whole_model_learns_and_is_a_model(model: str, root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "full", model, learning_rate=1e-3, train_text=True)
    facts = run.explain()
    stored = load_parts(root / model, dtype=torch.float32)
    assert facts["trained_parameters"] == sum(
        p.numel() for name, one in stored.networks.items() if name in ("unet", "text") for p in one.parameters()
    )
    assert run.train()
    path = tmp_path / "mine.safetensors"
    assert run.write(path)["networks"] == "unet+text"
    average = load_average(tmp_path / "run")
    family = TINY_SD if model == "sd" else None  # a file with LDM names has no sizes
    learned = load_parts(path, dtype=torch.float32, family=family)
    for name, network in learned.networks.items():
        for key, value in network.state_dict().items():
            expected = average[name][key] if name in average else stored.networks[name].state_dict()[key]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6)  # half precision
    assert any(
        not torch.equal(learned.unet.state_dict()[key], value) for key, value in stored.unet.state_dict().items()
    )
    engine = Engine("cpu", "float32")
    request = TextToImageRequest(prompt="a red cat", seed=1, num_steps=2, width=64, height=64)
    (before,), (after,) = (
        TextToImage(engine, engine.load(one, family=own))(request)
        for one, own in ((root / model, None), (path, family))
    )
    assert before.image.tobytes() != after.image.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "embedding"])
@pytest.mark.sampled(2)
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bits(kind: str, root: Path, tmp_path: Path) -> None:
    assert made(root, tmp_path / "whole", kind).train()
    calls = iter([False, True, True, True])
    assert not made(root, tmp_path / "parts", kind).train(stop=lambda: next(calls))
    assert made(root, tmp_path / "parts", kind).train()
    whole, parts = (load_state(tmp_path / name / "run" / "last.pt")["modules"] for name in ("whole", "parts"))
    for name, module in whole.items():
        for key, value in module.items():
            assert torch.equal(value, parts[name][key])


def test_an_embedding_becomes_a_word_that_the_vocabulary_lacks(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number, caption in enumerate(("a teapot", "a red teapot")):
        source = root / "pictures" / f"{number:02}.png"
        (tmp_path / "pictures" / source.name).write_bytes(source.read_bytes())
        (tmp_path / "pictures" / f"{number:02}.txt").write_text(caption)
    run = made(root, tmp_path, "embedding", data=str(tmp_path / "pictures"), vectors=2, init="red cat")
    assert run.explain()["unknown_words"] == []
    start = load_parts(root / "mini.safetensors", dtype=torch.float32)
    assert run.train()
    path = tmp_path / "teapot.safetensors"
    run.write(path)
    vectors = load_file(path)["emb_params"]
    assert vectors.shape == (2, start.text.config.dim)
    ids = [token.id for token in start.tokenizer.tokens("red cat")]
    began = start.text.token_embedding.weight[ids]
    assert 0.01 < float((vectors - began).abs().max()) < 1  # three steps of 0.1 from there

    engine = Engine("cpu", "float32")
    model = engine.load(root / "mini.safetensors")
    drawn = {}
    for name, finder in {"with": NamedFiles({"embedding": {"teapot": path}}), "without": NamedFiles()}.items():
        request = TextToImageRequest(prompt="a teapot", seed=1, num_steps=2)
        (drawn[name],) = TextToImage(engine, model, finder=finder)(request)
    assert not any("teapot" in str(notice) for notice in drawn["with"].notices)
    assert any("teapot" in str(notice) for notice in drawn["without"].notices)
    assert drawn["with"].image.tobytes() != drawn["without"].image.tobytes()


def test_a_lora_carries_the_word_that_it_learned(root: Path, tmp_path: Path) -> None:
    """Pivotal tuning: both learn, and one file draws with both."""
    run = made(
        root, tmp_path, "lora", learn_word=True, trigger="teapot", vectors=2, init="red", rank=2, optimizer="muon"
    )
    assert run.explain()["unknown_words"] == []
    assert run.settings.vector_rate == 2e-2
    assert run.train()
    path = tmp_path / "mine.safetensors"
    run.write(path)
    average = load_average(tmp_path / "run")
    tensors = load_file(path)
    assert torch.equal(tensors["bundle_emb.teapot.emb_params"], average["vectors"]["table.text"])
    start = load_parts(root / "mini.safetensors", dtype=torch.float32)
    (token,) = start.tokenizer.tokens("red")
    moved = (tensors["bundle_emb.teapot.emb_params"] - start.text.token_embedding.weight[token.id]).abs().max()
    assert 0.01 < float(moved) < 0.1  # three steps of 0.02
    assert any(value.any() for name, value in average["factors"].items() if name.endswith("up"))
    engine = Engine("cpu", "float32")
    draw = TextToImage(engine, engine.load(root / "mini.safetensors"), finder=NamedFiles({"lora": {"mine": path}}))
    (plain,), (steered,) = (
        draw(TextToImageRequest(prompt=prompt, seed=1, num_steps=2))
        for prompt in ("a teapot", "a teapot <lora:mine:1>")
    )
    assert any("teapot" in str(notice) for notice in plain.notices)
    assert not any("teapot" in str(notice) for notice in steered.notices)
    assert plain.image.tobytes() != steered.image.tobytes()


@pytest.mark.parametrize(
    ("kind", "model", "trigger", "learned", "new"),
    [
        ("lora", "mini.safetensors", "teapot", "teapot", []),
        ("lora", "mini.safetensors", "cat", "", []),
        ("lora", "sd", "teapot", "", []),
        ("full", "mini.safetensors", "a zorp teapot", "", ["zorp", "teapot"]),
        ("full", "mini.safetensors", "cat", "", []),
        ("full", "sd", "teapot", "", []),
    ],
)
@pytest.mark.sampled(6)
def test_a_trigger_that_the_vocabulary_lacks_becomes_a_word(
    kind: str, model: str, trigger: str, learned: str, new: list[str], root: Path, tmp_path: Path
) -> None:
    facts = made(root, tmp_path, kind, model, trigger=trigger).explain()
    assert (facts["learned_word"], facts["new_words"], facts["unknown_words"]) == (learned, new, [])


@pytest.mark.slow
def test_a_whole_model_gets_its_trigger_into_the_vocabulary(root: Path, tmp_path: Path) -> None:
    """DreamBooth's rare token: no word of gesso-mini's is rare, so there is a new one."""
    run = made(root, tmp_path, "full", trigger="teapot", learning_rate=1e-3)
    assert run.train()
    path = tmp_path / "mine.safetensors"
    run.write(path)
    before, after = (load_parts(one, dtype=None) for one in (root / "mini.safetensors", path))
    assert after.tokenizer.words == (*before.tokenizer.words, "teapot")
    old, table = before.text.token_embedding.weight, after.text.token_embedding.weight
    assert torch.equal(table[:-1], old)  # of the text encoder the new word learns alone
    began = load_named(root / "mini.safetensors", run.settings, dtype=torch.float32).text.token_embedding.weight[-1]
    assert float((table[-1].float() - began).detach().abs().max()) > 0.01
    assert 0.5 < float(table[-1].float().std() / old.float().std()) < 2
    assert not torch.equal(after.unet.conv_in.weight, before.unet.conv_in.weight)
    engine = Engine("cpu", "float32")
    draw = TextToImage(engine, engine.load(path))
    (teapot,), (nothing,) = (
        draw(TextToImageRequest(prompt=prompt, seed=1, num_steps=2)) for prompt in ("a teapot", "a kettle")
    )
    assert teapot.notices == () and any("kettle" in str(notice) for notice in nothing.notices)
    again = tmp_path / "again.safetensors"
    result_in(tmp_path / "run", root / "mini.safetensors").write(again)
    assert load_file(again).keys() == load_file(path).keys()
    assert all(torch.equal(value, load_file(again)[name]) for name, value in load_file(path).items())


@pytest.mark.slow
def test_samples_are_drawn_with_the_word(root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "embedding", samples=True, sample_prompts=("a teapot",), sample_steps=2, report_every=3)
    assert run.train()
    first, last = (tmp_path / "run" / "samples" / f"00000{step}-0.png" for step in (0, 3))
    assert first.read_bytes() != last.read_bytes()


def test_vectors_without_words_begin_at_random_and_both_encoders_of_sdxl_learn() -> None:
    parts = double(TINY_SDXL)
    settings = TuningSettings(kind="embedding", trigger="sks", vectors=3)
    tokenizers = [parts.tokenizer, parts.tokenizer_2 or parts.tokenizer]
    one, same, other = (
        make_learner(parts.networks, tokenizers, settings, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    tables = [dict(learner.modules["vectors"].state_dict()) for learner in (one, same, other)]
    assert {key: list(value.shape) for key, value in tables[0].items()} == {
        "table.text": [3, TINY_SDXL.text.dim],
        "table.text_2": [3, TINY_SDXL.text_2.dim],  # type: ignore[union-attr]
    }
    for key, value in tables[0].items():
        assert torch.equal(value, tables[1][key]) and not torch.equal(value, tables[2][key])
        spread = dict(parts.networks)[key.removeprefix("table.")].token_embedding.weight.std()  # type: ignore[union-attr]
        assert 0.5 < float(value.std() / spread) < 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "embedding"}, "`trigger` .*: expected the word that the embedding will be called by"),
        ({"kind": "embedding", "trigger": "x", "optimizer": "muon"}, "`optimizer` .*: expected adamw"),
        ({"kind": "hypernetwork"}, "`kind` 'hypernetwork': expected one of lora, full, embedding, controlnet, distil"),
        ({"kind": "full", "learn_word": True, "trigger": "x"}, "`learn_word` True: expected false: only a LoRA"),
        ({"learn_word": True}, "`trigger` '': expected the word that is learned"),
        ({"learn_word": True, "trigger": "a/b"}, "`trigger` 'a/b': expected the word that is learned, without slashes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(GessoError, match=message):
        TuningSettings(**changes)  # type: ignore[arg-type]


def test_a_word_and_a_name_that_differ_and_a_start_that_nobody_knows_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(GessoError, match="an embedding is called by the name of its file, 'teapot'"):
        made(root, tmp_path, "embedding", trigger="kettle")
    with pytest.raises(GessoError, match="`init` 'zorp': the model does not know this word"):
        made(root, tmp_path, "embedding", init="red zorp").train()


@pytest.mark.slow
def test_what_learns_stays_in_full_precision_and_is_counted() -> None:
    settings = TuningSettings(kind="full", base="bfloat16")
    settings = completed(replace(settings, preset="24gb"), TINY_SD, 4)
    assert settings.base == "float32"
    small = completed(TuningSettings(kind="embedding", trigger="x", preset="24gb"), TINY_SD, 4)
    whole, vectors = estimate(TINY_SD, settings, (128, 128)), estimate(TINY_SD, small, (128, 128))
    assert vectors.parameters == small.vectors * TINY_SD.text.dim
    assert whole.nbytes > vectors.nbytes and whole.flops > vectors.flops
    asking = estimate(TINY_SD, replace(settings, prior_answers=True, reg="others"), (128, 128))
    assert asking.nbytes == whole.nbytes + 4 * whole.parameters  # as it was, for what it said
    assert asking.flops == pytest.approx(whole.flops + 0.5 * whole.row_flops * (settings.batch_size or 1))


def test_pictures_of_the_class_are_drawn_once(root: Path, tmp_path: Path) -> None:
    given = {"device": "cpu", "seed": 3, "steps": 1}
    model = root / "mini.safetensors"
    assert draw_class_pictures(model, ["a red cat"] * 2, tmp_path / "class", **given) == 2  # type: ignore[arg-type]
    files = {path.name: path.read_bytes() for path in (tmp_path / "class").iterdir()}
    assert files.keys() == {"0000.png", "0000.txt", "0001.png", "0001.txt"}
    assert files["0000.txt"] == b"a red cat\n" and files["0000.png"] != files["0001.png"]
    (tmp_path / "class" / "0001.txt").unlink()  # as a run that was cut off leaves it
    assert draw_class_pictures(model, ["a red cat"] * 2, tmp_path / "class", **given) == 1  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in (tmp_path / "class").iterdir()} == files


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"trigger": "teapot"}, 64),
        ({"trigger": "teapot", "class_pictures": 5}, 5),
        ({"trigger": "teapot", "kind": "full"}, 64),
        ({"trigger": "teapot", "class_pictures": 0}, 0),
        ({"trigger": "teapot", "reg": "elsewhere"}, 0),
        ({"trigger": "teapot", "preserve": "cat"}, 0),
        ({"trigger": "teapot", "kind": "embedding"}, 0),  # the model stays as it is
        ({}, 0),  # a style
    ],
)
@pytest.mark.sampled(4)
def test_beside_a_trigger_the_model_draws_what_it_knows(changes: dict[str, Any], count: int, root: Path) -> None:
    settings = TuningSettings(**({"data": str(root / "pictures")} | changes))
    prompts = class_prompts(settings, root / "mini.safetensors")
    tokenizer = load_parts(root / "mini.safetensors", dtype=None).tokenizer
    assert not any(tokenizer.unknown_words(prompt) for prompt in prompts)
    assert len(set(prompts)) == len(prompts) <= count and bool(prompts) == bool(count)
    assert class_prompts(settings, root / "sd") == []
    one = replace(settings, class_prompt="a red cat", class_pictures=3)
    assert class_prompts(one, root / "mini.safetensors") == ["a red cat"] * 3


def test_what_a_model_knows_is_asked_in_many_ways() -> None:
    names = [thing.name for thing in things()]
    prompts = known_prompts(names, 64, 0)
    assert len(set(prompts)) == 64 and known_prompts(names, 64, 1) != prompts == known_prompts(names, 64, 0)
    assert sum(any(f" {word} " in text for word in ("left", "right", "above", "below")) for text in prompts) > 3
    assert sum("background" in text for text in prompts) > 8
    assert not any("cat" in text for text in known_prompts(names, 64, 0, lambda text: "cat" not in text))
    assert len(known_prompts(names[:2], 8, 0)) == 8  # as few as there can be


def test_settings_of_a_kind_are_read_again(root: Path, tmp_path: Path) -> None:
    run = made(root, tmp_path, "embedding")
    assert run.train()
    run.write(tmp_path / "teapot.safetensors")
    again = TuningSettings(**read_settings(tmp_path / "teapot.toml"))
    assert again == replace(run.settings, precision="float32")


def test_numbers_that_half_precision_cannot_hold_are_named():
    check_fits({"fine": torch.tensor([65504.0])})
    with pytest.raises(GessoError, match=r"^unet\.conv_in\.weight: 70000 does not fit into torch\.float16") as error:
        check_fits({"fine": torch.zeros(1), "unet.conv_in.weight": torch.tensor([1.0, -7e4])})
    assert error.value.code == "overflow"
