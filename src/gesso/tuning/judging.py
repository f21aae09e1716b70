"""What judges a training on its way: weights kept at each report, the verdict on them, the check for copies at the end.

In the folder of the training:

steps/000050.safetensors   what was learned after so many steps, in float32, by module and name
measures.jsonl, judged/    what was measured and drawn (`measures`)
copies.json, copies/       what the check at the end found, and the drawn pictures most like yours beside those
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.tuning.control_measures import ControlMeasurer
from gesso.tuning.controlling import ControlTask
from gesso.tuning.copies import SSCD_THRESHOLD, THRESHOLD, Outlines, sscd
from gesso.tuning.distilling import DistilTask
from gesso.tuning.judge_prompts import caption_prompts, judge_prompts
from gesso.tuning.measures import (
    CONTRASTS,
    FEATURE_NOISES,
    JUDGED_SHARES,
    MEASURES,
    Measurer,
    drawing_of,
    save_pictures,
)
from gesso.tuning.settings import STUDENT_STEPS, TuningSettings
from gesso.tuning.student_measures import StudentMeasurer, student_drawing
from gesso.tuning.task import MAX_REPORTED, REPORTED_TIMES, TuningTask
from gesso.tuning.verdict import Verdict, read_measures, verdict_of

SPARE_DISK = 32 * 2**20  # bytes that kept weights leave free
MAX_SHOWN = 12  # drawn pictures that the page shows beside the nearest training picture
STEPS, COPIES, SHOWN = "steps", "copies.json", "copies"
SAMPLE_STEPS = 20  # of a sample where no number is given
JUDGED_STEPS = 10  # sampling steps of the pictures that are judged, where the model takes more
SAMPLES = 12
COPY_SAMPLES, CPU_COPY_SAMPLES = 200, 48


def with_samples(settings: TuningSettings, *, is_mini: bool, on_cpu: bool) -> TuningSettings:
    """Completed settings with as many pictures to judge by as the machine can draw."""
    slow = on_cpu and not is_mini  # minutes a picture: only where it is asked for
    nothing = not settings.samples or slow
    samples = settings.judge_samples
    if samples is None:
        samples = 0 if nothing else SAMPLES
    copies = settings.copy_samples
    if copies is None:
        copies = 0 if nothing or not samples else CPU_COPY_SAMPLES if on_cpu else COPY_SAMPLES
    is_large = settings.kind in ("full", "controlnet") and not is_mini
    keep = settings.keep_steps or (2 if is_large else 10_000)
    return replace(settings, judge_samples=samples, copy_samples=copies, keep_steps=keep)


def rows_of_reports(settings: TuningSettings, prompts: int) -> int:
    """How many pictures the UNet looks at, at most, to draw and judge, in all the reports of a training and at its end.

    settings: completed, with samples. prompts: of the samples
    """
    steps, every = settings.steps or 1, settings.report_every or 1
    reports = len({*range(0, steps + 1, every), steps})  # that of the start is among them
    rows = reports * prompts * 2 * (settings.sample_steps or SAMPLE_STEPS)
    rows += reports * REPORTED_TIMES * (MAX_REPORTED + min(settings.held_out or 0, MAX_REPORTED))
    count = settings.judge_samples or 0
    if not count:
        return rows
    others = max(count // 2, 4)  # at most, see `judge_prompts`
    a_picture = 2 * min(settings.sample_steps or JUDGED_STEPS, JUDGED_STEPS)  # with its prompt and without
    looks = FEATURE_NOISES + len(JUDGED_SHARES) * (1 + CONTRASTS)
    rows += reports * (count * (a_picture + looks) + others * len(JUDGED_SHARES))
    rows += (2 * count + others) * (a_picture + FEATURE_NOISES)  # what the model drew before
    return rows + (settings.copy_samples or 0) * a_picture


class Judge:
    """Called at each report with the weights in place that count; keeps and judges them.

    settings  completed, with samples. folder: of the training
    The task must be as it starts.
    """

    def __init__(self, task: TuningTask, settings: TuningSettings, folder: Path) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        family = task.parts.family
        own = [one for one in task.found if not one.subset.is_reg]
        captions = [one.subset.captions.whole(one.example.caption) for one in own]
        words = [word.name for word in task.learner.words]
        count = settings.judge_samples or 0
        given: dict[str, Any] = {
            "given": settings.judge_prompts,
            "knows": lambda text: not task.parts.tokenizer.unknown_words(text, keep=words),
        }
        how = drawing_of(family, min(settings.sample_steps or JUDGED_STEPS, JUDGED_STEPS))
        kind: type[Measurer] = Measurer
        if isinstance(task, ControlTask):
            kind, prompts = ControlMeasurer, caption_prompts(captions, count if task.hints.can_redo else 0, **given)
        elif isinstance(task, DistilTask):
            kind, prompts = StudentMeasurer, caption_prompts(captions, count, **given)
            how = student_drawing(settings.sample_steps or STUDENT_STEPS)
        else:
            names: dict[str, Any] = {"trigger": settings.trigger, "class_words": settings.class_prompt}
            prompts = judge_prompts(captions, count, **names, **given)
        self.measurer = kind(
            task,
            folder,
            prompts,
            how=how,
            side=max((settings.resolution or family.output_size) // family.output_scale // family.vae.downscale, 1),
            prepare=sscd(Path(settings.sscd).expanduser()) if settings.sscd else Outlines,
            threshold=SSCD_THRESHOLD if settings.sscd else THRESHOLD,
            by="SSCD" if settings.sscd else "outlines",
        )
        self.stops = False

    def __call__(self, step: int) -> dict[str, float]:
        """Keep and measure the networks as they are. -> means for the log"""
        self._forget_later(step)
        figures = self.measurer(step)
        if step == 0:
            return figures
        self._keep(step)
        verdict = verdict_of(read_measures(self.folder / MEASURES, step))
        self.stops = self.settings.auto_stop and verdict.stops
        self._forget(step, verdict)
        return figures | {"score": verdict.steps[-1].score.value}

    def _forget_later(self, step: int) -> None:
        """Remove what steps left that a run which was rolled back, or cut off, has yet to reach again."""
        path = self.folder / MEASURES
        rows = read_measures(path)
        if any(row["step"] > step for row in rows):
            with atomic_file(path) as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step).encode())
        for one in kept_steps(self.folder):
            if one > step:
                kept_path(self.folder, one).unlink(missing_ok=True)

    def _keep(self, step: int) -> None:
        weights = {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, module in self.task.modules.items()
            for key, value in module.state_dict().items()
        }
        if (found := read_copies(self.folder)) is not None and found["step"] == step:
            (self.folder / COPIES).unlink()  # it was of other weights
        path, nbytes = kept_path(self.folder, step), sum(value.nbytes for value in weights.values())
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < nbytes + SPARE_DISK:
            raise GessoError(
                f"{path.parent}: no room for weights of {nbytes / 2**20:.0f} MiB at step {step}; the last state "
                "stays as it was. Free some space, then run the same command again",
                code="disk_full",
                data={"path": str(path.parent), "step": step},
            )
        with atomic_file(path) as file:
            file.write(save(weights))

    def _forget(self, step: int, verdict: Verdict) -> None:
        """Remove the oldest weights over the limit, none of the best step and of this one."""
        kept = [one for one in kept_steps(self.folder) if one not in (step, verdict.best)]
        spare = (self.settings.keep_steps or 1) - (1 if verdict.best in (step, None) else 2)
        for one in kept[: max(len(kept) - max(spare, 0), 0)]:
            kept_path(self.folder, one).unlink(missing_ok=True)

    def finish(self, on_picture: Callable[[int, int], None]) -> None:
        """Draw pictures with the best step, look for copies among them, and write what was found; once."""
        if is_checked(self.settings, self.folder):
            return
        best, count = best_step(self.folder), self.settings.copy_samples or 0
        if best is None or not count or not self.measurer.prompts.yours:
            return
        set_weights(self.task.modules, load_kept(self.folder, best))
        for module in self.task.modules.values():
            module.eval()
        found, pictures = self.measurer.check(count, on_picture)
        shown = sorted(range(len(pictures)), key=lambda place: -found.nearest[place][1])[:MAX_SHOWN]
        folder = self.folder / SHOWN
        shutil.rmtree(folder, ignore_errors=True)
        yours = [self.measurer.pictures[found.nearest[place][0]] for place in shown]
        save_pictures(folder / "drawn", [pictures[place] for place in shown])
        save_pictures(folder / "yours", yours)
        names = [self.task.found[self.measurer.compared[place]].example.path.name for place, _ in found.nearest]
        report = {
            "step": best,
            "samples": len(pictures),
            "copies": found.copies,
            "threshold": round(found.threshold, 4),
            "by": found.by,
            "asked": asked_of(self.settings),
            "alike": [round(value, 4) for value in found.alike],
            "nearest": [[name, round(value, 4)] for name, (_, value) in zip(names, found.nearest, strict=True)],
            "shown": shown,
        }
        with atomic_file(self.folder / COPIES) as file:
            file.write(json.dumps(report, indent=1).encode())


def set_weights(modules: Mapping[str, nn.Module], weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put weights by module and name into modules."""
    for name, module in modules.items():
        module.load_state_dict(dict(weights[name]))


def kept_path(folder: Path, step: int) -> Path:
    """The file of the weights of a step."""
    return folder / STEPS / f"{step:06d}.safetensors"


def kept_steps(folder: Path) -> list[int]:
    """The steps whose weights are kept, in order."""
    return sorted(int(path.stem) for path in (folder / STEPS).glob("*.safetensors") if path.stem.isdigit())


def load_kept(folder: Path, step: int) -> dict[str, dict[str, Tensor]]:
    """The weights that were kept at a step, by module and name. Raises GessoError where there are none."""
    path = kept_path(folder, step)
    if not path.exists():
        kept = ", ".join(map(str, kept_steps(folder))) or "none"
        raise GessoError(
            f"{folder}: no weights of step {step} are kept. There are those of {kept}",
            code="missing",
            data={"path": str(path)},
        )
    weights: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            for whole in file.keys():  # noqa: SIM118 (the file is no mapping)
                name, _, key = whole.partition("/")
                weights.setdefault(name, {})[key] = file.get_tensor(whole)
    except (SafetensorError, OSError) as error:
        raise GessoError(
            f"{path}: is damaged ({str(error)[:80]}). Choose another step", code="damaged", data={"path": str(path)}
        ) from None
    return weights


def verdict_on(folder: Path, upto: int | None = None) -> Verdict:
    """The verdict on the training in a folder, as far as it has come."""
    return verdict_of(read_measures(folder / MEASURES, upto))


def best_step(folder: Path) -> int | None:
    """The best step whose weights are kept; None: none are.

    What is best may change with every report, and come to be a step whose weights are gone: then that of those that are
    kept which has the highest score.
    """
    verdict, kept = verdict_on(folder), kept_steps(folder)
    if verdict.best in kept or not kept:
        return verdict.best if kept else None
    scores = {one.step: one.score.value for one in verdict.steps}
    return max(kept, key=lambda step: (scores.get(step, -1.0), step))


def read_copies(folder: Path) -> dict[str, Any] | None:
    """What the check for copies found; None: there was none."""
    try:
        found = json.loads((folder / COPIES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "copies" in found else None


def asked_of(settings: TuningSettings) -> dict[str, Any]:
    """The settings that a check for copies follows from, beside the weights; values for JSON."""
    return {
        "samples": settings.copy_samples,
        "prompts": list(settings.judge_prompts),
        "judge_samples": settings.judge_samples,
        "sscd": settings.sscd,
    }


def is_checked(settings: TuningSettings, folder: Path) -> bool:
    """Whether the best step has been looked through for copies as the settings ask, or they ask for nothing."""
    best = best_step(folder)
    if best is None or not settings.copy_samples or not settings.judge_samples:
        return True
    found = read_copies(folder)
    return found is not None and found["step"] == best and found.get("asked") == asked_of(settings)


def judged_metadata(folder: Path, step: int | None) -> dict[str, str]:
    """What a file says about the step that it is of; nothing in it depends on when or where it ran."""
    verdict = verdict_on(folder)
    figures = next((one for one in verdict.steps if one.step == step), None)
    values: dict[str, str] = {}
    if figures is not None:
        values["gesso.verdict"] = json.dumps({name: one.rounded() for name, one in figures.figures().items()})
    found = read_copies(folder)
    if found is not None and found["step"] == step:
        values |= {
            "gesso.copy_check_samples": str(found["samples"]),
            "gesso.copy_check_copies": str(found["copies"]),
            "gesso.copy_check_threshold": str(found["threshold"]),
            "gesso.copy_check_by": str(found["by"]),
        }
    return values
