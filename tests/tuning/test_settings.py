"""Settings: what goes into the file comes out of it, and what makes no sense is refused by name."""

from dataclasses import asdict, replace

import pytest

from gesso.errors import GessoError
from gesso.tuning.judging import with_samples
from gesso.tuning.settings import PRESETS, TuningSettings, completed, preset_for, read_settings, to_toml
from tiny_models import tiny_family
from tiny_sd import TINY_SD


def test_there_and_back(tmp_path):
    settings = TuningSettings(
        data='my "photos" \\ \u00fc \x7f\n',
        trigger="sks",
        rank=8,
        alpha=1.5,
        flip=True,
        sample_prompts=("a", 'b"'),
        steps=7,
    )
    (tmp_path / "my.toml").write_text(to_toml(settings), encoding="utf-8")
    assert TuningSettings(**read_settings(tmp_path / "my.toml")) == settings
    whole = with_samples(
        completed(replace(settings, preset="cpu", learn_word=False), TINY_SD, 5), is_mini=False, on_cpu=True
    )
    (tmp_path / "my.toml").write_text(to_toml(whole), encoding="utf-8")
    assert TuningSettings(**read_settings(tmp_path / "my.toml")) == whole
    assert None not in asdict(whole).values()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ranc = 3", "unknown setting ranc. Did you mean rank?"),
        ("rank = 3.5", "rank = 3.5, expected a whole number"),
        ("flip = 1", "flip = 1, expected true or false"),
        ('sample_prompts = "a"', "expected a list of texts"),
        ("rank = [", "is not TOML"),
        ("[[datasets]]", "is a data set of kohya's trainer"),
    ],
)
def test_a_file_that_makes_no_sense(text, message, tmp_path):
    (tmp_path / "my.toml").write_text(text, encoding="utf-8")
    with pytest.raises(GessoError) as error:
        read_settings(tmp_path / "my.toml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "`rank` 0: expected 1 to 1024"),
        ({"learning_rate": float("nan")}, "`learning_rate` nan: expected 0 to 1"),
        ({"optimizer": "adam"}, "`optimizer` 'adam': expected one of adamw, muon, adafactor"),
        ({"preset": "16gb"}, "expected one of auto, cpu, 8gb, 12gb, 24gb"),
        ({"min_bucket": 600, "max_bucket": 500}, "expected at most max_bucket, 500"),
        ({"min_timestep": 600, "max_timestep": 500}, "expected at most max_timestep, 500"),
        (
            {"kind": "embedding", "trigger": "x", "prior_answers": True},
            "`prior_answers` True: expected false, or a `kind`",
        ),
        ({"kind": "full", "shard": True, "prior_answers": True}, "expected false, or whole weights, without `shard`"),
        ({"shard": True}, "`shard` True: expected false: only the weights of a whole model are worth parting"),
        ({"kind": "full", "shard": True, "optimizer": "muon"}, "`optimizer` 'muon': expected adamw beside `shard`"),
        ({"warmup": 0.6, "decay": 0.6}, "`decay` 0.6: expected at most 0.4 beside a warmup of 0.6"),
    ],
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(GessoError) as error:
        TuningSettings(**values)
    assert message in str(error.value) and error.value.field in values


def test_what_is_left_open_follows_from_model_preset_and_data():
    cpu = replace(TuningSettings(), preset="cpu")
    sd, mini = completed(cpu, TINY_SD, 12), completed(cpu, tiny_family(), 12)
    assert (sd.batch_size, sd.steps, sd.learning_rate, sd.conv_rank, sd.alpha) == (1, 1200, 1e-4, 0, 16.0)
    assert (mini.batch_size, mini.steps, mini.learning_rate, mini.conv_rank) == (8, 900, 1e-3, 16)  # a style
    assert (sd.prior_answers, sd.prior_weight, sd.vectors) == (False, 1.0, 4)
    assert (mini.prior_answers, mini.prior_weight, mini.vectors) == (True, 3.0, 1)
    assert completed(replace(cpu, optimizer="prodigy"), tiny_family(), 12).learning_rate == 1.0
    called = replace(cpu, trigger="teapot")
    of_thing = completed(called, tiny_family(), 12)
    assert [(one.learning_rate, one.caption_dropout) for one in (mini, of_thing)] == [(1e-3, 0.2), (5e-4, 0.05)]
    assert (sd.caption_dropout, completed(replace(cpu, caption_dropout=0.1), tiny_family(), 12).caption_dropout) == (
        0.05,
        0.1,
    )
    assert (completed(called, tiny_family(), 12).steps, completed(called, TINY_SD, 2).steps) == (900, 400)
    assert (of_thing.prior_weight, completed(replace(called, kind="full"), tiny_family(), 12).prior_weight) == (
        6.0,
        3.0,
    )
    assert completed(replace(called, prior_weight=2.0), tiny_family(), 12).prior_weight == 2.0
    assert completed(replace(called, init="red cat"), tiny_family(), 12).vectors == 2
    for changes in ({"kind": "embedding"}, {"kind": "distil"}, {"preserve": "cat"}, {"kind": "full", "shard": True}):
        assert not completed(replace(called, **changes), tiny_family(), 12).prior_answers
    assert completed(replace(cpu, kind="full"), tiny_family(), 12).prior_answers
    assert [completed(cpu, TINY_SD, count).held_out for count in (1, 19, 20, 50, 500)] == [0, 0, 2, 5, 8]
    assert completed(cpu, TINY_SD, 3, batch_size=2).batch_size == 2
    assert completed(replace(cpu, batch_size=5), TINY_SD, 3, batch_size=2).batch_size == 5
    for name, preset in PRESETS.items():
        found = completed(replace(cpu, preset=name), TINY_SD, 50)
        assert (found.batch_size, found.precision, found.base, found.checkpointing) == (
            preset.batch_size,
            preset.precision,
            preset.base,
            preset.checkpointing,
        )
    sizes = {
        name: preset_for("auto", "cuda", int(gigabytes * 1e9)) for name, gigabytes in {"8gb": 8.5, "24gb": 25}.items()
    }
    assert all(name == found for name, found in sizes.items())
    assert preset_for("auto", "cpu", None) == "cpu" and preset_for("12gb", "cpu", None) == "12gb"
