"""Every setting of a training as one value; presets by memory; the TOML file that repeats a run."""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from gesso.errors import GessoError, short, shorten
from gesso.families.base import Family
from gesso.request.checks import nearest_name
from gesso.tuning.buckets import BucketRules
from gesso.tuning.kinds import KINDS
from gesso.tuning.objective import TIMESTEPS
from gesso.tuning.optimizers import PACKAGED

ALGORITHMS = ("lora", "lokr")
OPTIMIZERS = ("adamw", "muon", *PACKAGED)
PRECISIONS = ("auto", "float32", "bfloat16")
BASES = ("auto", "float32", "bfloat16")
MAX_TOML = 2**20
MAX_RANK = 1024


def _limits(low: float, high: float) -> Any:
    return MappingProxyType({"low": low, "high": high})


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """What a training does. None: follows from the model, the preset or the data; see `completed`.

    kind                 what is trained: a LoRA, all weights of the UNet (full), the vectors of an embedding, a
                         ControlNet, or a LoRA that draws in a few steps (distil)
    trigger              word that is put before captions that lack it; the name of an embedding
    class_prompt         prompt of pictures of the class that the model draws itself, before the training
    class_pictures       how many; 0: none; without class_prompt a LoRA of gesso-mini gets other things
    prior_answers        pictures of the class teach what the model says of them without what is learned, and not what
                         they show; None: those of gesso-mini
    preserve             class that stays as it is without the LoRA, in place of the trigger; needs no pictures
    learn_word           the trigger of a LoRA is a word that learns, too, of `vectors` that begin as `init`; None:
                         where the model's own vocabulary lacks it
    data, model, output  folder or TOML file of the data set; model file, folder or name; file that is written
    resolution           pixels a side of a square of the buckets' area; None: the model's own
    min_bucket, max_bucket, bucket_step  sides of buckets in pixels; None: half and twice the resolution
    algorithm            of a LoRA: lora, or lokr with `lokr_factor` (0: the root of a layer's width) and `lokr_whole`
    rslora, dora         scale by alpha / sqrt(rank); with magnitudes that learn
    block_ranks, block_rates  "down.1=8": ranks, and shares of the learning rate, by block; see `factors.Blocks`
    loraplus             ratio of the rates of a LoRA's two factors; 0: they have one
    judge_prompts, judge_samples  prompts of the pictures by which each report judges, and how many; None: as they cost
    copy_samples         pictures drawn at the end, which are looked through for copies; None: as they cost
    sscd                 ONNX file of SSCD that looks for copies; "": outlines do
    auto_stop            end where later steps only copy
    keep_steps           reports whose weights are kept; None: all, 2 of large ones (a whole SD, its ControlNet)
    include_reserved     train on pictures whose owners reserve that, too
    hint, hint_parameters  preprocessor of a ControlNet's hints, and what differs from its defaults, "low=50"
    hints                folder of hints as files, with the names of the pictures
    teacher_guidance, teacher_guidance_to  guidance scale of a distillation's teacher, and the end of its range
    teacher_steps        of its DDIM over the whole schedule
    shard                part the weights of a whole model over the processes, with gradients and moments
    held_out             pictures that are never trained on; None: 0 of fewer than 20, else one in ten, at most 8
    """

    # What is learned, from what.
    kind: str = "lora"
    data: str = ""
    model: str = "gesso-mini"
    output: str = ""
    reg: str = ""
    class_prompt: str = ""
    preserve: str = ""
    class_pictures: int | None = field(default=None, metadata=_limits(0, 10_000))
    caption: str = ""
    trigger: str = ""
    repeats: int = field(default=1, metadata=_limits(1, 10_000))
    resolution: int | None = field(default=None, metadata=_limits(16, 4096))
    buckets: bool = True
    min_bucket: int | None = field(default=None, metadata=_limits(8, 16_384))
    max_bucket: int | None = field(default=None, metadata=_limits(8, 16_384))
    bucket_step: int | None = field(default=None, metadata=_limits(1, 1024))
    enlarge: bool = True
    flip: bool = False
    masks: bool = True
    mask_floor: float = field(default=0.0, metadata=_limits(0, 1))
    shuffle_captions: bool = False
    keep_tags: int = field(default=0, metadata=_limits(0, 1000))
    caption_dropout: float | None = field(default=None, metadata=_limits(0, 1))
    tag_dropout: float = field(default=0.0, metadata=_limits(0, 1))
    include_reserved: bool = False
    held_out: int | None = field(default=None, metadata=_limits(0, 1000))
    # The embedding.
    learn_word: bool | None = None
    vectors: int | None = field(default=None, metadata=_limits(1, 75))
    init: str = ""
    # The network.
    algorithm: str = "lora"
    rank: int = field(default=16, metadata=_limits(1, MAX_RANK))
    alpha: float | None = field(default=None, metadata=_limits(1e-6, 1e6))
    conv_rank: int | None = field(default=None, metadata=_limits(0, MAX_RANK))
    conv_alpha: float | None = field(default=None, metadata=_limits(1e-6, 1e6))
    rslora: bool = False
    dora: bool = False
    lokr_factor: int = field(default=0, metadata=_limits(0, 4096))
    lokr_whole: bool = False
    block_ranks: tuple[str, ...] = ()
    block_rates: tuple[str, ...] = ()
    loraplus: float = field(default=0.0, metadata=_limits(0, 1000))
    train_text: bool = False
    dropout: float = field(default=0.0, metadata=_limits(0, 0.95))
    # What a ControlNet looks at.
    hint: str = ""
    hints: str = ""
    hint_parameters: tuple[str, ...] = ()
    # The teacher of a distillation.
    teacher_guidance: float | None = field(default=None, metadata=_limits(1, 50))
    teacher_guidance_to: float | None = field(default=None, metadata=_limits(1, 50))
    teacher_steps: int = field(default=50, metadata=_limits(2, 1000))
    # The training.
    preset: str = "auto"
    steps: int | None = field(default=None, metadata=_limits(1, 10_000_000))
    batch_size: int | None = field(default=None, metadata=_limits(1, 1024))
    accumulation: int = field(default=1, metadata=_limits(1, 1024))
    learning_rate: float | None = field(default=None, metadata=_limits(0, 1))
    text_rate: float | None = field(default=None, metadata=_limits(0, 1))
    vector_rate: float | None = field(default=None, metadata=_limits(0, 1))
    optimizer: str = "adamw"
    weight_decay: float = field(default=0.01, metadata=_limits(0, 1))
    warmup: float = field(default=0.05, metadata=_limits(0, 1))
    decay: float = field(default=0.2, metadata=_limits(0, 1))
    clip: float = field(default=1.0, metadata=_limits(1e-6, 1e6))
    ema: float = field(default=0.0, metadata=_limits(0, 0.99999))
    seed: int = field(default=0, metadata=_limits(0, 2**31 - 1))
    timesteps: str = "uniform"
    timestep_mean: float = field(default=0.0, metadata=_limits(-10, 10))
    timestep_std: float = field(default=1.0, metadata=_limits(1e-3, 10))
    min_timestep: int = field(default=0, metadata=_limits(0, 999))
    max_timestep: int | None = field(default=None, metadata=_limits(0, 999))
    min_snr: float = field(default=0.0, metadata=_limits(0, 1000))
    noise_offset: float = field(default=0.0, metadata=_limits(0, 1))
    prior_weight: float | None = field(default=None, metadata=_limits(0, 100))
    prior_answers: bool | None = None
    # The machine.
    device: str = "auto"
    precision: str | None = None
    base: str | None = None
    checkpointing: bool | None = None
    shard: bool = False
    # What is shown on the way.
    report_every: int | None = field(default=None, metadata=_limits(1, 10_000_000))
    samples: bool = True
    sample_prompts: tuple[str, ...] = ()
    sample_steps: int | None = field(default=None, metadata=_limits(1, 1000))
    judge_prompts: tuple[str, ...] = ()
    judge_samples: int | None = field(default=None, metadata=_limits(0, 1000))
    copy_samples: int | None = field(default=None, metadata=_limits(0, 10_000))
    sscd: str = ""
    auto_stop: bool = True
    keep_steps: int | None = field(default=None, metadata=_limits(1, 10_000))
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            self._check(name, value)
        if self.min_bucket is not None and self.max_bucket is not None and self.min_bucket > self.max_bucket:
            raise _refused("min_bucket", self.min_bucket, f"at most max_bucket, {self.max_bucket}")
        if self.max_timestep is not None and self.min_timestep > self.max_timestep:
            raise _refused("min_timestep", self.min_timestep, f"at most max_timestep, {self.max_timestep}")
        if self.warmup + self.decay > 1:
            raise _refused("decay", self.decay, f"at most {1 - self.warmup:g} beside a warmup of {self.warmup:g}")
        if self.kind == "embedding" and not self.trigger:
            raise _refused("trigger", self.trigger, "the word that the embedding will be called by")
        if self.kind == "embedding" and self.optimizer == "muon":
            raise _refused("optimizer", "muon", "adamw: the vectors of an embedding are no matrix of weights")
        if self.optimizer == "prodigy" and (self.loraplus or self.block_rates):
            name = "loraplus" if self.loraplus else "block_rates"
            raise _refused(name, getattr(self, name), "none beside prodigy, which finds one rate for all")
        if self.shard and self.kind != "full":
            raise _refused("shard", True, "false: only the weights of a whole model are worth parting")
        if self.shard and self.optimizer != "adamw":
            raise _refused("optimizer", self.optimizer, "adamw beside `shard`: others need whole matrices")
        if self.learn_word and self.kind != "lora":
            raise _refused("learn_word", True, "false: only a LoRA can carry a word")
        if self.learn_word and (not self.trigger or set(self.trigger) & set("/\\\0")):
            raise _refused("trigger", self.trigger, "the word that is learned, without slashes")
        if self.preserve and not self.trigger:
            raise _refused("preserve", self.preserve, "a `trigger` beside it, in whose place it stands")
        if self.preserve and self.kind != "lora":
            raise _refused("preserve", self.preserve, "nothing: only a LoRA can be left out to see what was before")
        if self.kind == "distil":
            for name, plain in (
                ("timesteps", "uniform"),
                ("min_timestep", 0),
                ("max_timestep", None),
                ("min_snr", 0.0),
            ):
                if getattr(self, name) != plain and not (name == "max_timestep" and self.max_timestep == 999):
                    raise _refused(name, getattr(self, name), f"{plain}: a distillation has timesteps of its own")
            if self.train_text:
                raise _refused("train_text", True, "false: the teacher's text encoders are the student's, too")
        if self.prior_answers and (self.kind not in ("lora", "full") or self.shard):
            what = "whole weights, without `shard`" if self.shard else "a `kind` of lora or full"
            raise _refused("prior_answers", True, f"false, or {what}: the model is asked what it said before")
        if self.hint_parameters and self.hints:
            raise _refused("hint_parameters", self.hint_parameters[0], "none beside `hints`, which are finished")
        if (self.teacher_guidance or 1) > (self.teacher_guidance_to or math.inf):
            raise _refused("teacher_guidance", self.teacher_guidance, f"at most {self.teacher_guidance_to:g}")
        if self.algorithm == "lokr" and self.loraplus:
            raise _refused("loraplus", self.loraplus, "0: LoKr has no upper factors, which LoRA+ is about")
        if self.algorithm != "lokr" and (self.lokr_factor or self.lokr_whole):
            name = "lokr_factor" if self.lokr_factor else "lokr_whole"
            raise _refused(name, getattr(self, name), "an `algorithm` of lokr beside it")
        if len(self.sample_prompts) > 16:
            raise _refused("sample_prompts", len(self.sample_prompts), "at most 16 prompts")
        if len(self.judge_prompts) > 1000:
            raise _refused("judge_prompts", len(self.judge_prompts), "at most 1000 prompts")

    def _check(self, name: str, value: Any) -> None:
        choices = {
            "kind": KINDS,
            "algorithm": ALGORITHMS,
            "optimizer": OPTIMIZERS,
            "timesteps": TIMESTEPS,
            "precision": PRECISIONS,
            "base": BASES,
            "preset": ("auto", *PRESETS),
        }
        if value is None:
            return
        if name in choices and value not in choices[name]:
            near = nearest_name(value, choices[name])
            hint = f"Did you mean {near}?" if near else ""
            raise _refused(name, value, f"one of {', '.join(choices[name])}. {hint}".strip())
        limits = next(one.metadata for one in fields(self) if one.name == name)
        if limits and not (math.isfinite(value) and limits["low"] <= value <= limits["high"]):
            raise _refused(name, value, f"{limits['low']:g} to {limits['high']:g}")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What fits into so much memory."""

    batch_size: int
    precision: str
    base: str  # dtype of the UNet and, unless they are trained, the text encoders
    checkpointing: bool
    about: str


PRESETS: Mapping[str, Preset] = {
    "cpu": Preset(
        batch_size=1, precision="auto", base="float32", checkpointing=False, about="a processor, float32 or bfloat16"
    ),
    "8gb": Preset(batch_size=1, precision="bfloat16", base="bfloat16", checkpointing=True, about="a card of 8 GB"),
    "12gb": Preset(batch_size=2, precision="bfloat16", base="bfloat16", checkpointing=True, about="a card of 12 GB"),
    "24gb": Preset(batch_size=4, precision="bfloat16", base="bfloat16", checkpointing=True, about="a card of 24 GB"),
}
# Learning rates of Stable Diffusion and of gesso-mini.
RATES: dict[str, tuple[float, float]] = {
    "lora": (1e-4, 5e-4),
    "style": (1e-4, 1e-3),  # a LoRA, see `is_style`
    "full": (5e-6, 2e-4),
    "word": (5e-6, 1e-4),  # a whole model with a trigger, which is not to lose the rest
    "embedding": (5e-3, 2e-2),
    "distil": (1e-4, 5e-4),
}
RATES |= {"controlnet": (1e-5, 5e-4)}
HINT = "canny"
STUDENT_STEPS = 4  # of a distilled model's samples
VECTORS = 4  # of a word; the other words of gesso-mini have one, and places after it count from there
# Of rows that shall be answered as before: their gaps are small beside errors of pictures. A LoRA that learns a word
# draws other prompts better with 6 than with 3 (docs/log.md).
ANSWERS_WEIGHT, WORD_ANSWERS_WEIGHT = 3.0, 6.0
STYLE_DROPOUT = 0.2  # of gesso-mini, see `is_style`
MINI_STEPS = {"lora": 900, "full": 600}  # at least
MINI_BATCH = 8  # gesso-mini is so small that one picture a step would waste the machine


def usual_prior_weight(settings: TuningSettings, *, answers: bool) -> float:
    """The weight of rows of the class, where none is stated."""
    if settings.prior_weight is not None:
        return settings.prior_weight
    learns_word = settings.kind == "lora" and settings.trigger
    return (WORD_ANSWERS_WEIGHT if learns_word else ANSWERS_WEIGHT) if answers else 1.0


def preset_for(name: str, device: str, nbytes: int | None) -> str:
    """The preset that "auto" means on a device with so much memory."""
    if name != "auto":
        return name
    if device == "cpu":
        return "cpu"
    gigabytes = (nbytes or 0) / 1e9
    return "24gb" if gigabytes >= 20 else "12gb" if gigabytes >= 11 else "8gb"


def completed(
    settings: TuningSettings, family: Family, pictures: int, *, batch_size: int | None = None
) -> TuningSettings:
    """The settings with a value in every place. preset: is decided already.

    pictures    how many there are to learn, repeats counted
    batch_size  that the data set's files ask for
    """
    preset, is_mini = PRESETS[settings.preset], bool(family.upscaler or not family.scheduler)
    rules = bucket_rules(settings, family)
    own_batch = MINI_BATCH if is_mini else preset.batch_size
    batch = settings.batch_size or batch_size or min(own_batch, max(pictures, 1))
    answers = settings.prior_answers
    if answers is None:
        answers = is_mini and settings.kind in ("lora", "full") and not (settings.shard or settings.preserve)
    # A hundred looks at each picture, within what is usual.
    least = MINI_STEPS.get(settings.kind, 400) if is_mini else 400
    steps = settings.steps or min(max(100 * pictures // (batch * settings.accumulation), least), 3000)
    rank = settings.rank
    conv_rank = settings.conv_rank if settings.conv_rank is not None else rank if is_mini else 0
    rate = settings.learning_rate
    if rate is None:
        kind = "style" if is_style(settings) else settings.kind
        kind = "word" if settings.kind == "full" and settings.trigger else kind
        rate = usual_rate(kind, settings.optimizer, is_mini=is_mini)
    held = settings.held_out
    vector_rate = settings.vector_rate
    if vector_rate is None:
        vector_rate = usual_rate("embedding", settings.optimizer, is_mini=is_mini)
    guidance = settings.teacher_guidance or max(family.defaults.guidance_scale, 1.0)
    base = preset.base if settings.base in (None, "auto") else settings.base
    if settings.kind == "full":
        base = "float32"  # what learns needs all its digits
    return replace(
        settings,
        class_pictures=settings.class_pictures or 0,
        caption_dropout=usual_dropout(settings, family),
        prior_answers=answers,
        prior_weight=usual_prior_weight(settings, answers=answers),
        resolution=rules.resolution[0],
        bucket_step=rules.step,
        min_bucket=rules.low,
        max_bucket=rules.high,
        held_out=held if held is not None else 0 if pictures < 20 else min(pictures // 10, 8),
        alpha=settings.alpha if settings.alpha is not None else float(rank),
        conv_rank=conv_rank,
        conv_alpha=settings.conv_alpha if settings.conv_alpha is not None else float(max(conv_rank, 1)),
        steps=steps,
        batch_size=batch,
        learning_rate=rate,
        text_rate=settings.text_rate
        if settings.text_rate is not None
        else rate / (1 if settings.optimizer == "prodigy" else 2),
        vectors=settings.vectors
        or (max(len(settings.init.split()), 1) if is_mini and settings.kind == "lora" else VECTORS),
        vector_rate=vector_rate,
        max_timestep=settings.max_timestep if settings.max_timestep is not None else family.schedule.num_timesteps - 1,
        precision=settings.precision or preset.precision,
        base=base,
        checkpointing=preset.checkpointing if settings.checkpointing is None else settings.checkpointing,
        report_every=settings.report_every or max(steps // 8, 1),
        sample_steps=settings.sample_steps
        or (STUDENT_STEPS if settings.kind == "distil" else family.defaults.num_steps),
        hint=settings.hint or (HINT if settings.kind == "controlnet" and not settings.hints else ""),
        teacher_guidance=guidance,
        teacher_guidance_to=settings.teacher_guidance_to or guidance,
    )


def is_style(settings: TuningSettings) -> bool:
    """Whether a LoRA learns what all pictures have, and nothing beside it has to stay as it was."""
    beside = settings.trigger or settings.reg or settings.class_prompt or settings.preserve
    return settings.kind == "lora" and not beside


def usual_dropout(settings: TuningSettings, family: Family) -> float:
    """The share of steps without a caption.

    A style without a word has to be there without a caption, too: guidance would lead away from a gesso-mini that has
    not got it, into more of the style than the pictures have.
    """
    if settings.caption_dropout is not None:
        return settings.caption_dropout
    return STYLE_DROPOUT if family.scheduler is None and is_style(settings) else 0.05


def usual_rate(kind: str, optimizer: str, *, is_mini: bool) -> float:
    """The learning rate where none is given."""
    row = PACKAGED.get(optimizer)
    share = 1.0 if row is None else row.rate
    return 1.0 if share is None else share * RATES[kind][is_mini]  # None: it finds its own


def bucket_rules(settings: TuningSettings, family: Family) -> BucketRules:
    """The buckets that settings with gaps ask for, in pixels of finished pictures."""
    resolution = settings.resolution or family.output_size
    step = settings.bucket_step or (64 if family.scheduler else 2 * family.size_multiple)
    return BucketRules(
        resolution=(resolution, resolution),
        enabled=settings.buckets,
        low=settings.min_bucket or max(resolution // 2, step),
        high=settings.max_bucket or 2 * resolution,
        step=step,
        upscale=settings.enlarge,
    )


# ---- the file --------------------------------------------------------------------------------------------------------


def to_toml(settings: TuningSettings) -> str:
    """The settings as a file that `read_settings` reads; what follows from the model or the data is left out."""
    lines = [f"# A training of gesso. To repeat it: gesso train {settings.kind} --settings THIS-FILE", ""]
    for name, value in asdict(settings).items():
        if value is not None:
            lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)  # TOML's basic strings have the same escapes
        return text.replace("\x7f", "\\u007f")
    return repr(value)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file, checked one by one. Raises GessoError, naming the key."""
    try:
        if path.stat().st_size > MAX_TOML:
            raise GessoError(f"{path}: {path.stat().st_size} bytes of settings", code="too_large")
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be read ({error.strerror})", code="missing", data={"path": str(path)}
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GessoError(
            f"{path}: is not TOML ({shorten(str(error))})", code="damaged", data={"path": str(path)}
        ) from None
    hints = get_type_hints(TuningSettings)
    if "datasets" in table:
        raise GessoError(f"{path}: is a data set of kohya's trainer. Give it in place of the folder", code="wrong_kind")
    for key, value in table.items():
        if key not in hints:
            near = nearest_name(key, hints)
            hint = f"Did you mean {near}?" if near else f"Known: {', '.join(hints)}"
            raise GessoError(f"{path}: unknown setting {shorten(key)}. {hint}", code="unknown_name", field=None)
        table[key] = _typed(path, key, value, hints[key])
    return table


def _typed(path: Path, key: str, value: Any, hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if hint == tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        kinds = ["a list of texts"]
    elif float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif any(type(value) is kind for kind in kinds):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    expected = " or ".join(names.get(kind, str(kind)) for kind in kinds)
    raise GessoError(f"{path}: {key} = {short(value)}, expected {expected}", code="invalid_value")


def _refused(name: str, value: Any, expected: str) -> GessoError:
    return GessoError(f"`{name}` {short(value)}: expected {expected}", code="invalid_value", field=name)
