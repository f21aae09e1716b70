"""A training from a folder of pictures to a file: `TuningRun`.

run = TuningRun(settings, model, folder)
run.explain()          # what was found, what it will take; nothing is trained
run.train(stop=...)    # or goes on from the last state
run.write(path)
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gesso.errors import GessoError, short
from gesso.families.base import Family
from gesso.families.loading import load_parts
from gesso.families.parts import ModelParts
from gesso.files import atomic_file
from gesso.models.vae import AutoencoderKL
from gesso.request.finder import Kind as FileKind
from gesso.runtime.precision import choose_device
from gesso.training.group import Group, local_rank
from gesso.training.loop import Plan, fit, last_facts
from gesso.training.sharding import Parting
from gesso.training.task import generator_for
from gesso.tuning.buckets import BucketRules
from gesso.tuning.captions import CaptionRules, trigger_pattern
from gesso.tuning.conditions import is_cut, unknown_words
from gesso.tuning.controlling import ControlLearner, ControlTask, make_control, write_control
from gesso.tuning.dataset import DataSet, Defaults
from gesso.tuning.distilling import Distillation, DistilTask
from gesso.tuning.estimate import Estimate, estimate, operations_per_second, seconds_of, trained_parameters
from gesso.tuning.files import save_embedding
from gesso.tuning.hints import Hints, hints_for
from gesso.tuning.judging import SAMPLE_STEPS, Judge, is_checked, rows_of_reports, verdict_on, with_samples
from gesso.tuning.latents import Encoded, LatentCache, encode_all
from gesso.tuning.learners import FullLearner, Learner, LoraLearner, Vectors, make_learner
from gesso.tuning.objective import Objective
from gesso.tuning.optimizers import PACKAGED, check_installed, make_optimizer
from gesso.tuning.page import write_page
from gesso.tuning.reading import read_dataset
from gesso.tuning.result import DATA, FACTS, SETTINGS, Result, described, model_digest
from gesso.tuning.samples import SAMPLES, Sampler
from gesso.tuning.settings import TuningSettings, bucket_rules, completed, preset_for, to_toml, usual_dropout
from gesso.tuning.survey import Survey, bucket_counts, survey
from gesso.tuning.task import CHECKPOINTED, TuningTask
from gesso.tuning.tracking import TensorBoard
from gesso.tuning.verdict import Verdict
from gesso.tuning.vocabulary import learns_word, load_named, named, new_words

# What may differ when a run goes on: how long it is, and what is shown on the way.
_MAY_DIFFER = {
    "steps",
    "report_every",
    "samples",
    "sample_prompts",
    "sample_steps",
    "output",
    "data",
    "hints",
    "model",
    "preset",
    "judge_prompts",
    "judge_samples",
    "copy_samples",
    "sscd",
    "auto_stop",
    "keep_steps",
    "tensorboard",
}
_MAY_DIFFER |= {"precision"}  # the state keeps its own
_BEFORE = {"prior_answers": False}  # how trainings were before there was a setting, where that is not its default now
ROLL_BACKS = 4
KEEP_EVERY = 50  # steps between the states to which a run rolls back
SAVE_EVERY = 60.0  # seconds
LOG_EVERY = 10
STUDENT = {"sampler": "lcm", "guidance_scale": 1.0}  # how a distilled model draws
OnProgress = Callable[[str, int, int], None]  # what is done, how much, of how much
OnLog = Callable[[dict[str, float]], None]


class TuningRun:
    """One training.

    settings  with gaps, which the model, the preset and the data fill
    model     file or folder of the model, or gesso-mini's file
    folder    of states, log, samples and page; made when the training starts
    cache     folder of latents; None: nothing is kept
    Reading the data set and the model's header raises GessoError for what cannot be trained on.
    """

    def __init__(
        self,
        settings: TuningSettings,
        model: Path,
        folder: Path,
        *,
        cache: Path | None = None,
        on_progress: OnProgress = lambda what, done, of: None,
    ) -> None:
        self.model, self.folder, self.cache, self.on_progress = model, folder, cache, on_progress
        self.device = choose_device(settings.device)
        if self.device.type == "cuda" and settings.device in ("auto", "cuda") and Group().size > 1:
            self.device = torch.device("cuda", local_rank())
        if self.device.type == "mps":
            raise GessoError(
                "`device=mps`: training there has no numbers of 64 bits, which the schedule needs. Use `device=cpu`",
                code="unsupported",
                field="device",
            )
        settings = replace(settings, preset=preset_for(settings.preset, self.device.type, _memory(self.device)))
        plain = load_parts(model, dtype=None, check=False)
        self.new_words, self.stored = new_words(plain, settings), named(plain, settings)
        settings = replace(settings, learn_word=learns_word(self.stored, settings))
        self.family = _trainable(self.stored, model)
        _check_name(settings)
        check_installed(settings.optimizer)
        self.data = read_dataset(
            Path(settings.data).expanduser(), _defaults(settings, self.family, folder if cache is None else cache)
        )
        if settings.trigger:
            self.data = _with_trigger(self.data, settings.trigger)
        rules = bucket_rules(settings, self.family)
        self._check_buckets(rules)
        self.survey: Survey = survey(
            self.data,
            rules,
            scale=self.family.output_scale,
            masks=settings.masks,
            include_reserved=settings.include_reserved,
            on_picture=lambda done, of: on_progress("looking at pictures", done, of),
        )
        pictures = sum(one.subset.repeats for one in self.survey.own)
        is_mini, on_cpu = self.family.scheduler is None, self.device.type == "cpu"
        settings = completed(settings, self.family, pictures, batch_size=self.data.batch_size)
        self.settings = with_samples(settings, is_mini=is_mini, on_cpu=on_cpu)
        self.held = self._choose_held()
        processes = Group().size
        if (self.settings.batch_size or 1) < processes:
            raise GessoError(
                f"`batch_size` {self.settings.batch_size}: the {processes} processes share each batch. Give at least "
                f"{processes}, or start fewer",
                code="invalid_value",
                field="batch_size",
            )

    @property
    def plan(self) -> Plan:
        """Length, rates and averaging, for the loop."""
        s = self.settings
        assert s.steps is not None and s.batch_size is not None and s.learning_rate is not None
        a_step = s.batch_size * s.accumulation
        return Plan(
            batch_size=s.batch_size,
            total_samples=s.steps * a_step,
            learning_rate=s.learning_rate,
            warmup_samples=round(s.warmup * s.steps) * a_step,
            decay_share=0.0 if s.optimizer in PACKAGED and PACKAGED[s.optimizer].plain else s.decay,
            ema_decay=s.ema,
            betas=(0.9, 0.999),
            weight_decay=s.weight_decay,
            clip=s.clip,
            seed=s.seed,
            accumulation=s.accumulation,
        )

    # ---- before it runs ----------------------------------------------------------------------------------------------

    @cached_property
    def estimate(self) -> Estimate:
        """What a step needs."""
        largest = max((one.framing.bucket for one in self.survey.found), key=lambda size: size[0] * size[1])
        return estimate(self.family, self.settings, largest)

    def explain(self) -> dict[str, Any]:
        """What was found, what is trained, and what it takes; values for JSON."""
        s, found = self.settings, self.survey
        captions = [one.subset.captions.whole(one.example.caption) for one in found.own]
        assert s.steps is not None
        speed = operations_per_second(self.device)
        step = seconds_of(self.estimate.flops, speed)
        rows = rows_of_reports(s, len(self._prompts()))
        held = {found.found[place].example.path for place in self.held}
        return {
            "data": s.data,
            "layout": self.data.layout,
            "pictures": len(found.own),
            "class_pictures": len(found.reg),
            "captions": sum(bool(caption) for caption in captions),
            "masks": sum(one.has_mask for one in found.found),
            "folders": [
                {"folder": str(one.where), "pictures": count, "repeats": one.repeats, "class": one.is_reg}
                for one, count in self._by_subset()
            ],
            "buckets": [
                {"width": width, "height": height, "pictures": count}
                for (width, height), count in bucket_counts(found.found).items()
            ],
            "enlarged": [
                {"picture": one.example.path.name, "width": one.size[0], "height": one.size[1]}
                for one in found.enlarged
            ],
            "duplicates": self._own_groups(found.twins),
            "alike": self._own_groups(found.alike),
            "reserved": [{"picture": path.name, "by": by} for path, by in found.reserved],
            "reserved_used": s.include_reserved,
            "generated": [path.name for path in found.generated],
            "unreadable": [{"picture": path.name, "reason": reason} for path, reason in found.unreadable],
            "animated": [path.name for path in found.animated],
            "deep": [path.name for path in found.deep],
            "cmyk": [path.name for path in found.cmyk],
            "cut_captions": sum(is_cut(self.stored, caption) for caption in captions),
            "learned_word": s.trigger if s.learn_word else "",
            "new_words": self.new_words,
            "unknown_words": unknown_words(self.stored, captions, self._words),
            "held_out": sorted(path.name for path in held),
            "notes": list(self.data.notes),
            "hints": self._hint_words(),
            "model": s.model,
            "family": self.family.name,
            "kind": s.kind,
            "preset": s.preset,
            "device": str(self.device),
            "trained_layers": self.estimate.layers,
            "trained_parameters": self.estimate.parameters,
            "file_bytes": self._file_bytes,
            "memory_bytes": self.estimate.nbytes,
            "steps": s.steps,
            "batch_size": s.batch_size,
            "looks_at_each": round(self.plan.total_samples / max(sum(one.subset.repeats for one in found.own), 1), 1),
            "seconds_a_step": float(f"{step:.3g}"),
            "seconds": float(f"{step * s.steps:.3g}"),
            "report_seconds": float(f"{seconds_of(rows * self.estimate.row_flops, speed):.3g}"),
        }

    def _own_groups(self, groups: Sequence[Sequence[Path]]) -> list[list[str]]:
        """Names of the pictures to learn in each group; pictures of the class may look the same."""
        own = {one.example.path for one in self.survey.own}
        named = [[path.name for path in group if path in own] for group in groups]
        return [group for group in named if len(group) > 1]

    def _hint_words(self) -> str:
        """Where a ControlNet's hints come from; "" for other kinds. Looks for all of them."""
        if self.settings.kind != "controlnet":
            return ""
        return f"{len(self.hints.files)} files in {self.settings.hints}" if self.hints.folder else self.settings.hint

    @property
    def _words(self) -> tuple[str, ...]:
        """Words that are learned, whatever the vocabulary."""
        s = self.settings
        return (s.trigger,) if s.kind == "embedding" or s.learn_word else ()

    @property
    def _file_bytes(self) -> int:
        """Of the result, about."""
        if self.settings.kind == "full":
            return 2 * sum(p.numel() for network in self.stored.networks.values() for p in network.parameters())
        return (4 if self.settings.kind == "embedding" else 2) * trained_parameters(self.family, self.settings)

    def _by_subset(self) -> list[tuple[Any, int]]:
        counts = Counter(one.example.subset for one in self.survey.found)
        return [(subset, counts[place]) for place, subset in enumerate(self.data.subsets)]

    # ---- the training ------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether the last state is that of the last step, or of one after which training on would only copy."""
        state = last_facts(self.folder)
        if state is None:
            return False
        if state["samples"] >= self.plan.total_samples:
            return True
        return self.settings.auto_stop and verdict_on(self.folder, state["step"]).stops

    def train(self, *, stop: Callable[[], bool] = lambda: False, on_log: OnLog = lambda row: None) -> bool:
        """Train, or go on from the last state, until the end or until `stop` says so between two steps.

        -> whether it is at its end. Raises GessoError as `fit`, and for a folder that holds another training.
        """
        group = Group()
        if group.rank == 0:
            self._claim_folder()
        group.wait()
        parameters = trained_parameters(self.family, self.settings)
        if self.is_done and is_checked(self.settings, self.folder):  # the command again: nothing is left to do
            if group.rank == 0:
                self._page(parameters)
            group.wait()
            return True
        parts = self._parts()
        assert isinstance(parts.vae, AutoencoderKL)
        cache = LatentCache(parts.vae, self.cache, masks=self.settings.masks)

        def encode() -> dict[tuple[int, bool], Encoded]:
            return encode_all(
                cache, self.survey.found, on_picture=lambda done, of: self.on_progress("encoding pictures", done, of)
            )

        latents = group.first(encode) if self.cache is not None else encode()
        task = self._task(parts, latents)
        judge = Judge(task, self.settings, self.folder)
        prompts = self._prompts()
        sampler = Sampler(
            parts,
            self.folder / SAMPLES,
            prompts,
            self.settings.sample_steps or SAMPLE_STEPS,
            files=self._files_of(task.learner),
            hints=self._shown_hints() if self.settings.kind == "controlnet" and group.rank == 0 else (),
            fields=STUDENT if self.settings.kind == "distil" else {},
        )
        if not (prompts or self.settings.judge_samples or self.settings.copy_samples):  # nothing is drawn
            task.put_text_away()
            parts.vae.to("meta")
        every, steps = self.settings.report_every or 1, self.settings.steps or 1
        board = TensorBoard(self.folder / "tensorboard") if self.settings.tensorboard and group.rank == 0 else None

        def log(row: dict[str, float]) -> None:
            on_log(row)
            if board is not None:
                board(row)
            if "seen" in row:
                self._page(parameters)

        def report(step: int) -> dict[str, float]:
            return {**judge(step), **sampler(step)}

        if not self.is_done:
            fit(
                task,
                self.plan,
                self.folder,
                device=self.device,
                precision=self.settings.precision or "auto",  # type: ignore[arg-type]
                save_every=SAVE_EVERY,
                log_every=LOG_EVERY,
                stop=lambda: stop() or judge.stops,
                report_at=lambda step: step % every == 0 or step == steps,
                while_averaged=report,
                keep_every=KEEP_EVERY,
                roll_backs=ROLL_BACKS,
                on_log=log,
                shared_batches=True,
                make_optimizer=lambda groups, plan: make_optimizer(self.settings.optimizer, groups, plan),
                parting=Parting(("unet",), CHECKPOINTED) if self.settings.shard else None,
            )
        if group.rank == 0:
            if self.is_done:
                judge.finish(lambda drawn, of: self.on_progress("looking for copies", drawn, of))
            self._page(parameters)
        if board is not None:
            board.close()
        group.wait()
        return self.is_done

    @property
    def verdict(self) -> Verdict:
        """On what was trained so far."""
        return verdict_on(self.folder)

    def _page(self, parameters: int) -> None:
        shown = replace(self.settings, sample_prompts=self._prompts())  # those that were drawn, captions too
        write_page(self.folder, shown, self.explain_briefly(parameters))

    def explain_briefly(self, parameters: int) -> dict[str, Any]:
        """The data set in a few figures, for the page and the file."""
        found = self.survey
        return {
            "pictures": len(found.own),
            "class pictures": len(found.reg),
            "held out": len(self.held),
            "model": Path(self.model).name,
            "family": self.family.name,
            "trained parameters": parameters,
        }

    def _files_of(self, learner: Learner) -> Callable[[], Mapping[FileKind, Path]] | None:
        """Writes what samples need as a file, as it is now; None: they need none."""
        vectors = learner.modules.get("vectors")
        if isinstance(vectors, Vectors):
            path = self.folder / f"{self.settings.trigger}.safetensors"

            def write() -> Mapping[FileKind, Path]:
                save_embedding(path, dict(vectors.table.items()), self.family, {"title": path.stem}, {})
                return {"embedding": path}

            return write
        if isinstance(learner, ControlLearner):
            now = self.folder / "control.safetensors"

            def write_now() -> Mapping[FileKind, Path]:
                write_control(now, learner.control, self.family, self.settings.hint, {"title": now.stem}, {})
                return {"control": now}

            return write_now
        return None

    @cached_property
    def hints(self) -> Hints:
        """What a ControlNet looks at."""
        return hints_for(self.settings, self.survey.found)

    def _shown_hints(self) -> list[Image.Image]:
        """One for each sample: those of pictures that are held out, or of the first ones."""
        own = [place for place, one in enumerate(self.survey.found) if not one.subset.is_reg]
        places = self.held or own
        return [self.hints.image(places[n % len(places)], flip=False) for n in range(len(self._prompts()))]

    def _parts(self) -> ModelParts:
        """The model with its numbers, on the device."""
        parts = load_named(self.model, self.settings, device=self.device, dtype=torch.float32)
        if self.settings.base == "bfloat16":
            for name, network in parts.networks.items():
                if name == "unet" or (name.startswith("text") and not self.settings.train_text):
                    network.to(torch.bfloat16)
        for network in parts.networks.values():
            network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return parts

    def _task(self, parts: ModelParts, latents: Mapping[tuple[int, bool], Any]) -> TuningTask:
        s = self.settings
        tokenizers = [parts.tokenizer, parts.tokenizer_2 or parts.tokenizer]
        assert s.batch_size is not None
        given: dict[str, Any] = {
            "batch_size": s.batch_size,
            "seed": s.seed,
            "held": self.held,
            "text_rate": s.text_rate,
            "checkpointing": bool(s.checkpointing),
            "preserved": (s.trigger, s.preserve) if s.preserve else None,
        }
        start = generator_for(s.seed, 0, 1)
        found, objective = self.survey.found, objective_of(s, parts)
        if s.kind == "controlnet":
            control = make_control(parts.family, parts.unet, start).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            steering = ControlLearner(control, muon=s.optimizer == "muon")
            return ControlTask(parts, steering, found, latents, objective, hints=self.hints, **given)
        kind = DistilTask if s.kind == "distil" else TuningTask
        learner = make_learner(parts.networks, tokenizers, s, start, len(self.new_words))
        if s.prior_answers and isinstance(learner, LoraLearner | FullLearner):
            given |= {"before": learner.before, "trigger": s.trigger}
        return kind(parts, learner, found, latents, objective, **given)

    def _prompts(self) -> tuple[str, ...]:
        s = self.settings
        if not s.samples:
            return ()
        if s.sample_prompts:
            return s.sample_prompts
        if self.device.type == "cpu" and self.family.scheduler is not None:
            return ()  # minutes a picture: only where it is asked for
        if s.kind == "controlnet":  # each with the hint of its own picture
            shown = [self.survey.found[place] for place in self.held] or self.survey.own
            return tuple(one.subset.captions.whole(one.example.caption) for one in shown[:2])
        captions = dict.fromkeys(one.subset.captions.whole(one.example.caption) for one in self.survey.own)
        return tuple(caption for caption in captions if caption)[:2]

    # ---- the folder of the run ---------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        return {
            "settings": {name: value for name, value in asdict(self.settings).items() if name not in _MAY_DIFFER},
            "data": self.survey.fingerprint,
            "model": model_digest(self.stored),
            "hints": self.hints.fingerprint if self.settings.kind == "controlnet" else "",
        }

    def _claim_folder(self) -> None:
        """Make the folder, or check that it holds this training. Raises GessoError."""
        facts, path = json.loads(json.dumps(self._facts())), self.folder / FACTS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except OSError as error:
            raise GessoError(
                f"{self.folder}: cannot be used ({error.strerror}). Choose another `folder`",
                code="unwritable",
                data={"path": str(self.folder)},
            ) from error
        except ValueError:
            raise GessoError(f"{path}: is damaged. Remove the folder to start again", code="damaged") from None
        if before is None:
            if last_facts(self.folder) is not None:
                raise GessoError(
                    f"{self.folder}: holds the state of another kind of training. Use another folder",
                    code="other_training",
                    data={"path": str(self.folder)},
                )
            self._write_settings()
            with atomic_file(path) as file:
                file.write(json.dumps(facts, indent=1).encode())
            return
        advice = f"Use another `folder`, or remove {self.folder} to start again"
        for key, words in (
            ("model", "another model"),
            ("data", "other pictures or captions"),
            ("hints", "other hints"),
        ):
            if before.get(key, "") != facts[key]:
                raise GessoError(
                    f"{self.folder}: the training there was begun with {words}. {advice}",
                    code="other_training",
                    field="folder",
                )
        own = self.settings  # what a folder of an older release does not say is as it is unless it is chosen
        plain = TuningSettings(kind=own.kind, trigger=own.trigger, preset=own.preset)
        known = asdict(completed(plain, self.family, 1))
        old = json.loads(json.dumps(known)) | _BEFORE | before.get("settings", {})
        if differing := [name for name, value in facts["settings"].items() if old.get(name) != value]:
            name = differing[0]
            raise GessoError(
                f"{self.folder}: the training there has `{name}` {short(old.get(name))}, not "
                f"{short(facts['settings'][name])}. {advice}",
                code="other_training",
                field="folder",
            )
        self._write_settings()  # where model and pictures are now, and how long it is

    def _write_settings(self) -> None:
        for name, text in ((SETTINGS, to_toml(self.settings)), (DATA, json.dumps(self._data, indent=1))):
            with atomic_file(self.folder / name) as file:
                file.write(text.encode())

    # ---- the result --------------------------------------------------------------------------------------------------

    @cached_property
    def _data(self) -> dict[str, Any]:
        return described(self.survey, len(self.held), with_reserved=self.settings.include_reserved)

    @property
    def result(self) -> Result:
        """What was learned so far, as `write` writes it."""
        return Result(self.settings, self.model, self.stored, self.folder, self._data)

    def write(self, path: Path, *, author: str | None = None, step: int | None = None) -> dict[str, Any]:
        """Write what was learned, and beside it the settings. step: None: the best one. -> figures about the file"""
        return self.result.write(path, author=author, step=step)

    # ---- choices -----------------------------------------------------------------------------------------------------

    def _check_buckets(self, rules: BucketRules) -> None:
        multiple = self.family.size_multiple
        for one in (rules, *(subset.buckets for subset in self.data.subsets if subset.buckets is not None)):
            sides = one.resolution if not one.enabled else (one.step,)
            if any(side % multiple for side in sides):
                what = "bucket_step" if one.enabled else "resolution"
                raise GessoError(
                    f"`{what}` {sides[0]}: expected a multiple of {multiple} for {self.family.name}",
                    code="invalid_value",
                    field=what,
                )
            if not one.sizes() or (one.enabled and min(one.resolution) < one.step):
                raise GessoError(
                    f"`resolution` {one.resolution[0]}: smaller than a bucket's step, {one.step}",
                    code="invalid_value",
                    field="resolution",
                )

    def _choose_held(self) -> list[int]:
        """Places of pictures that are not trained on: none that has a twin which is."""
        found = self.survey
        doubled = {path for group in (*found.twins, *found.alike) for path in group}
        places = [
            place for place, one in enumerate(found.found) if not one.subset.is_reg and one.example.path not in doubled
        ]
        count = self.settings.held_out or 0
        if self.data.held_share is not None and count == 0:
            count = round(self.data.held_share * len(found.own))
        if count >= len(found.own):
            raise GessoError(
                f"`held_out` {count}: of {len(found.own)} pictures, none would be left to learn",
                code="invalid_value",
                field="held_out",
            )
        random.Random(f"{self.settings.seed} held out").shuffle(places)
        return sorted(places[:count])


def objective_of(settings: TuningSettings, parts: ModelParts) -> Objective:
    """The loss that completed settings ask for, with a model's schedule."""
    common: dict[str, Any] = {
        "schedule": parts.family.schedule.build(),
        "prediction": parts.family.prediction,
        "noise_offset": settings.noise_offset,
        "mask_floor": settings.mask_floor,
        "prior_weight": settings.prior_weight,
    }
    if settings.kind == "distil":
        assert settings.teacher_guidance is not None and settings.teacher_guidance_to is not None
        guidance = settings.teacher_guidance, settings.teacher_guidance_to
        return Distillation(**common, solver_steps=settings.teacher_steps, guidance=guidance)
    return Objective(
        **common,
        timesteps=settings.timesteps,  # type: ignore[arg-type]
        mean=settings.timestep_mean,
        std=settings.timestep_std,
        low=settings.min_timestep,
        high=settings.max_timestep,
        min_snr=settings.min_snr,
    )


def _defaults(settings: TuningSettings, family: Family, cache: Path) -> Defaults:
    return Defaults(
        captions=CaptionRules(
            shuffle=settings.shuffle_captions,
            keep=settings.keep_tags,
            dropout=usual_dropout(settings, family),
            tag_dropout=settings.tag_dropout,
        ),
        caption=settings.caption,
        flip=settings.flip,
        repeats=settings.repeats,
        reg=Path(settings.reg).expanduser() if settings.reg else None,
        unpacked=cache / "unpacked",
    )


def _with_trigger(data: DataSet, trigger: str) -> DataSet:
    """The trigger word before every caption that does not have it."""
    pattern = trigger_pattern(trigger)

    def add(caption: str) -> str:
        return caption if pattern.search(caption) else f"{trigger}, {caption}" if caption else trigger

    examples = tuple(
        one if data.subsets[one.subset].is_reg else replace(one, caption=add(one.caption)) for one in data.examples
    )
    return replace(data, examples=examples)


def _check_name(settings: TuningSettings) -> None:
    """An embedding is called by the name of its file. Raises GessoError where the two differ."""
    stem = Path(settings.output).stem
    if settings.kind == "embedding" and settings.output and stem != settings.trigger:
        raise GessoError(
            f"`trigger` {short(settings.trigger)}: an embedding is called by the name of its file, {short(stem)}. "
            "Make them the same",
            code="mismatch",
            field="trigger",
        )


def _trainable(parts: ModelParts, model: Path) -> Any:
    """The model's family. Raises GessoError for one that cannot be trained here."""
    family = parts.family
    reason = None
    if family.is_refiner:
        reason = "is a refiner; train for the base model"
    elif family.concat != "none":
        reason = f"takes more than latents ({family.concat}); train for the model that draws from text alone"
    elif family.takes_guidance_scale:
        reason = "is distilled with guidance as an input; train for the model that it was made from"
    elif not isinstance(parts.vae, AutoencoderKL):
        reason = "has a VAE that cannot encode"
    if reason is not None:
        raise GessoError(f"{model}: {family.name} {reason}", code="unsupported", field="model")
    return family


def _memory(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
