"""Writes what a training learned as a file, from the training's folder and the header of its model: `Result`.

In the folder:

settings.toml  completed settings
run.json       what another training may not differ in, and the hash of the model
data.json      what the file says of the pictures
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gesso.adapters.names import Target
from gesso.checkpoints.hashing import sha256_of
from gesso.errors import GessoError
from gesso.families.parts import ModelParts
from gesso.files import atomic_file
from gesso.models.controlnet import ControlNet
from gesso.training.loop import last_facts, load_average
from gesso.tuning.controlling import control_config, write_control
from gesso.tuning.files import save_embedding, save_model
from gesso.tuning.judging import best_step, judged_metadata, load_kept
from gesso.tuning.learners import make_factors
from gesso.tuning.lora_file import network_metadata, save_lora
from gesso.tuning.settings import TuningSettings, read_settings, to_toml
from gesso.tuning.survey import Survey, bucket_counts
from gesso.tuning.vocabulary import load_named

SETTINGS, FACTS, DATA = "settings.toml", "run.json", "data.json"
Weights = Mapping[str, Mapping[str, Tensor]]


def described(survey: Survey, held: int, *, with_reserved: bool) -> dict[str, Any]:
    """What the file says of the pictures, by its metadata's keys: values for JSON.

    held: how many are held out. with_reserved: those that their owners reserve took part
    """
    frequency: dict[str, dict[str, int]] = {}
    for one in survey.own:
        tags = frequency.setdefault(one.subset.where.name, {})
        for tag in one.subset.captions.tags(one.example.caption):
            tags[tag] = tags.get(tag, 0) + 1
    counts = dict.fromkeys(range(len(survey.data.subsets)), 0)
    for one in survey.found:
        counts[one.example.subset] += 1
    return {
        "ss_num_train_images": sum(one.subset.repeats for one in survey.own),
        "ss_num_reg_images": sum(one.subset.repeats for one in survey.reg),
        "ss_tag_frequency": frequency,
        "ss_dataset_dirs": {
            subset.where.name: {"n_repeats": subset.repeats, "img_count": counts[place]}
            for place, subset in enumerate(survey.data.subsets)
        },
        "ss_bucket_info": {
            "buckets": {
                str(place): {"resolution": list(size), "count": count}
                for place, (size, count) in enumerate(bucket_counts(survey.found).items())
            }
        },
        "gesso.training_data_sha256": survey.fingerprint,
        "gesso.held_out": held,
        **({"gesso.reserved_used": len(survey.reserved)} if with_reserved and survey.reserved else {}),
    }


class Result:
    """What a training in a folder has learned so far.

    settings  completed. model: its file or folder; stored: that, without numbers
    data      what the file says of the pictures, see `described`
    """

    def __init__(
        self, settings: TuningSettings, model: Path, stored: ModelParts, folder: Path, data: Mapping[str, Any]
    ) -> None:
        self.settings, self.model, self.stored, self.folder, self.data = settings, model, stored, folder, data
        self.family = stored.family

    def write(self, path: Path, *, author: str | None = None, step: int | None = None) -> dict[str, Any]:
        """Write what was learned, and beside it the settings. step: None: the best one. -> figures about the file"""
        about = {"title": path.stem, "resolution": f"{self.settings.resolution}x{self.settings.resolution}"}
        if self.settings.trigger:
            about["trigger_phrase"] = self.settings.trigger
        if author is not None:
            about["author"] = author
        if self.family.prediction != "eps":
            about["prediction_type"] = self.family.prediction
        step = best_step(self.folder) if step is None else step
        average = load_average(self.folder) if step is None else load_kept(self.folder, step)
        training = self.metadata() | ({"ss_steps": str(step)} if step else {}) | judged_metadata(self.folder, step)
        writers = {
            "lora": self._write_lora,
            "distil": self._write_lora,
            "full": self._write_model,
            "controlnet": self._write_control,
            "embedding": self._write_embedding,
        }
        figures = writers[self.settings.kind](path, average, about, training)
        with atomic_file(path.with_suffix(".toml")) as file:  # "auto" might choose otherwise the next time
            file.write(to_toml(replace(self.settings, precision=self.precision)).encode())
        return {**figures, **({"step": step} if step else {}), "bytes": path.stat().st_size}

    def _write_lora(
        self,
        path: Path,
        average: Weights,
        about: Mapping[str, str],
        training: Mapping[str, str],
    ) -> dict[str, Any]:
        with torch.no_grad():
            factors = make_factors(self.stored.networks, self.settings, torch.Generator())
        factors.load_state_dict(average["factors"])
        target = Target(self.family.name, self.family.layout, self.stored.networks)
        base = self.family.name if self.family.scheduler is None else None
        word = (self.settings.trigger, vectors_of(average)) if "vectors" in average else None
        save_lora(path, factors.changes(), target, about, base=base, training=training, word=word)
        return {"rank": self.settings.rank} if self.settings.algorithm == "lora" else {"algorithm": "lokr"}

    def _write_model(
        self,
        path: Path,
        average: Weights,
        about: Mapping[str, str],
        training: Mapping[str, str],
    ) -> dict[str, Any]:
        parts = load_named(self.model, self.settings, dtype=None)
        for name, weights in average.items():
            parts.networks[name].load_state_dict(weights, assign=True)
        save_model(path, parts, about, training)
        return {"networks": "+".join(name for name in parts.networks if name in average)}

    def _write_control(
        self,
        path: Path,
        average: Weights,
        about: Mapping[str, str],
        training: Mapping[str, str],
    ) -> dict[str, Any]:
        control = ControlNet(control_config(self.family))
        control.load_state_dict(average["control"])
        write_control(path, control, self.family, self.settings.hint, about, training)
        return {"hint": self.settings.hint or "files"}

    def _write_embedding(
        self,
        path: Path,
        average: Weights,
        about: Mapping[str, str],
        training: Mapping[str, str],
    ) -> dict[str, Any]:
        save_embedding(path, vectors_of(average), self.family, about, training)
        return {"vectors": self.settings.vectors}

    @property
    def precision(self) -> str | None:
        """That of the training where it has begun, which "auto" chose then."""
        facts = last_facts(self.folder)
        return self.settings.precision if facts is None else str(facts["precision"])

    def metadata(self) -> dict[str, str]:
        """ss_* keys, as kohya's trainer writes them; nothing in them depends on when or where it ran."""
        s = self.settings
        model_hash = "" if not self.stored.files else model_digest(self.stored)
        values: dict[str, Any] = {
            "ss_sd_model_name": Path(self.model).name,
            "ss_new_sd_model_hash": model_hash,
            "ss_sd_model_hash": model_hash[:8],
            "ss_steps": s.steps,
            "ss_max_train_steps": s.steps,
            "ss_total_batch_size": (s.batch_size or 1) * s.accumulation,
            "ss_gradient_accumulation_steps": s.accumulation,
            "ss_gradient_checkpointing": s.checkpointing,
            "ss_learning_rate": s.learning_rate,
            "ss_unet_lr": s.learning_rate,
            "ss_text_encoder_lr": s.text_rate if s.train_text else None,
            "ss_class_prompt": s.class_prompt or None,
            "gesso.preserve": s.preserve or None,
            "ss_optimizer": s.optimizer,
            "ss_lr_scheduler": "warmup_stable_decay",
            "ss_lr_warmup_steps": round(s.warmup * (s.steps or 0)),
            "ss_seed": s.seed,
            "ss_mixed_precision": "bf16" if self.precision == "bfloat16" else "no",
            "ss_resolution": f"({s.resolution}, {s.resolution})",
            "ss_clip_skip": self.family.clip_skip,
            "ss_caption_dropout_rate": s.caption_dropout,
            "ss_caption_tag_dropout_rate": s.tag_dropout,
            "ss_min_snr_gamma": s.min_snr or None,
            "ss_noise_offset": s.noise_offset or None,
            "ss_prior_loss_weight": s.prior_weight,
            "ss_network_dropout": s.dropout or None,
            **self.data,
        }
        if s.kind == "controlnet":
            values |= {"gesso.hint": s.hint, "gesso.hint_parameters": ", ".join(s.hint_parameters)}
        if s.kind == "distil":
            values["gesso.teacher_guidance"] = f"{s.teacher_guidance:g} to {s.teacher_guidance_to:g}"
            values["gesso.teacher_steps"] = s.teacher_steps
        if s.kind in ("lora", "distil"):
            values |= {"ss_network_dim": s.rank, "ss_network_alpha": s.alpha}
            values |= network_metadata(s)
        return {
            key: value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False)
            if isinstance(value, dict)
            else str(value)
            for key, value in values.items()
        }


def model_digest(stored: ModelParts) -> str:
    """What tells a model from others: the hash of its file; the name of its family where it has none."""
    return sha256_of(stored.files[0]) if stored.files else stored.family.name


def result_in(folder: Path, model: Path) -> Result:
    """The result of the training in a folder, whose pictures and device may be away. Raises GessoError.

    model: its file or folder, which must be the one that was trained
    """
    settings = TuningSettings(**read_settings(folder / SETTINGS))
    facts, data = _read(folder / FACTS), _read(folder / DATA)
    stored = load_named(model, settings, dtype=None, check=False)
    if model_digest(stored) != facts.get("model"):
        raise GessoError(
            f"{model}: is not the model that the training in {folder} was begun with. Give that one its name again",
            code="other_training",
            data={"path": str(model)},
        )
    return Result(settings, model, stored, folder, data)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of a training's folder. Raises GessoError."""
    advice = "Run the command of the training once more, which writes it"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise GessoError(f"{path}: {reason}. {advice}", code="missing", data={"path": str(path)}) from None
    if not isinstance(found, dict):
        raise GessoError(f"{path}: is no table. {advice}", code="damaged", data={"path": str(path)})
    return found


def vectors_of(average: Weights) -> dict[str, Tensor]:
    """Those of a learned word by text encoder, from a training state."""
    return {name.removeprefix("table."): value for name, value in average["vectors"].items()}
