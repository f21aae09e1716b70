"""Settings from a graph of ComfyUI: the passes that lead to the picture, and what their inputs are linked to.

The graph is followed from the picture's own output node. What was used is kept; every other node on the way to the
picture is named in a notice.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gesso.errors import GessoError, short
from gesso.metadata.comfyui_graph import Graph, Node, inputs_of, kind_of, stem
from gesso.metadata.comfyui_models import PICTURE_LOADERS, Loaded, ancestors, family_of, loaded_by
from gesso.metadata.comfyui_passes import (
    Chosen,
    Enlarged,
    Step,
    chosen,
    empty_of,
    encoded_size,
    enlarged,
    first_side,
    split_of,
)
from gesso.metadata.comfyui_sampling import sampling
from gesso.metadata.comfyui_texts import Parts, Texts, named, together, written
from gesso.metadata.comfyui_unused import note_unused
from gesso.metadata.comfyui_workflow import graph_of_workflow, texts_shown
from gesso.metadata.picture_metadata import COMFYUI, Draft, PictureMetadata, real, whole
from gesso.notices import Notice
from gesso.request.hires import LATENT_UPSCALERS, upscaler_name
from gesso.request.parts import MAX_LORAS, HiresPass, LoraUse
from gesso.text.prompt import number_text

MAX_CHARS = 8 * 2**20

_PICTURE_UPSCALERS = ("lanczos", "bicubic", "bilinear", "box", "nearest")
_FROM_WORKFLOW = Notice(
    "read from ComfyUI's workflow (the graph as the UI shows it), which does not name the inputs of custom nodes",
    code="workflow_only",
)


def from_graph(
    text: str, *, width: int | None = None, height: int | None = None, name: str = "", workflow: str = ""
) -> PictureMetadata:
    """The settings of a graph in the form of the API (the text chunk "prompt").

    width, height, name  of the picture's file: they tell which of several pictures of the graph it is
    workflow             the text chunk of that name, from which texts come that the run itself made and showed
    Raises GessoError for what is no such graph, or one without a sampler.
    """
    graph = _parsed(text)
    shown: dict[str, str] = {}
    if workflow:
        with suppress(GessoError):  # the graph alone is enough
            shown = texts_shown(_parsed(workflow))
    return _settings(Graph(graph, shown), width, height, name)


def from_workflow(text: str, *, width: int | None = None, height: int | None = None, name: str = "") -> PictureMetadata:
    """The same from a workflow (the text chunk "workflow"), as far as possible. Raises GessoError as `from_graph`."""
    workflow = _parsed(text)
    metadata = _settings(Graph(graph_of_workflow(workflow), texts_shown(workflow)), width, height, name)
    return replace(metadata, notices=(_FROM_WORKFLOW, *metadata.notices))


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARS:
        raise GessoError(f"a graph of {len(text)} characters, expected at most {MAX_CHARS}", code="too_large")
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GessoError(
            f"the graph is not valid JSON ({str(error)[:100] or 'nested too deeply'})", code="damaged"
        ) from error
    if not isinstance(graph, dict):
        raise GessoError("the graph is not a JSON object of nodes", code="damaged")
    return graph


def _settings(graph: Graph, width: int | None, height: int | None, name: str) -> PictureMetadata:
    picture = chosen(graph, width=width, height=height, name=name)
    draft = Draft(**COMFYUI)
    reader = _Reader(graph, draft)
    model = reader.read(picture)
    _note_others(draft, graph, picture)
    note_unused(draft, graph, picture, drawable=not reader.family)
    first = picture.steps[0].sampler
    pairs = {key: str(value)[:200] for key, value in inputs_of(first).items() if not isinstance(value, list | dict)}
    return draft.build("ComfyUI", pairs=pairs, model=model)


def _note_others(draft: Draft, graph: Graph, picture: Chosen) -> None:
    if not picture.others or picture.output is None:
        return
    others = ", ".join(named(graph, node) for node in picture.others[:4])
    how = "by its size or name" if picture.sure else "but nothing tells whether that is this file"
    more = f" and {len(picture.others) - 4} more" if len(picture.others) > 4 else ""
    draft.note(
        f"the graph makes several pictures; gesso read that of {named(graph, picture.output)}, {how}. "
        f"Others: {others}{more}",
        code="several_pictures",
    )


def _listed(loras: Sequence[LoraUse]) -> str:
    """LoRA by name and weight, in a notice."""
    return ", ".join(f"{use.name[:60]} {number_text(use.weight)}" for use in loras[:8]) or "none"


class _Reader:
    """Reads the passes of a picture into a draft."""

    def __init__(self, graph: Graph, draft: Draft) -> None:
        self.graph, self.draft = graph, draft
        self.texts = Texts(graph, draft)
        self.family = ""  # of models that gesso does not draw

    def read(self, picture: Chosen) -> str:
        """Fills in the draft and returns the model's name."""
        graph, draft = self.graph, self.draft
        first, *later = self.since_a_new_start(picture.steps)
        graph.use(picture.output, first.sampler)
        for path, value in sampling(graph, draft, first.sampler).items():
            draft.values[path] = value
        noise = graph.linked(first.sampler, "noise")
        if kind_of(noise) == "DisableNoise":
            draft.note("the picture was drawn without noise (DisableNoise), so there is no seed", field="seed")
        sides = {side: self.sides(first.sampler, side) for side in ("positive", "negative")}
        self.prompts(sides)
        self.skip()
        self.size(first.sampler)
        loaded = loaded_by(graph, draft, first.sampler)
        draft.values["loras"] = tuple(loaded.loras)[:MAX_LORAS]
        if len(loaded.loras) > MAX_LORAS:
            draft.note(f"ignored: all but {MAX_LORAS} LoRA", field="loras")
        if loaded.guidance_rescale is not None:
            draft.set("guidance_rescale", loaded.guidance_rescale, "multiplier")
        self.family = family_of(graph, first.sampler, loaded.name)
        if self.family:
            draft.note(
                f"the picture was drawn with {self.family}; gesso does not draw this family of models",
                code="model_unavailable",
            )
        self.later(first, later, loaded, sides)
        self.in_one_node(first.sampler)
        if "ResolutionSelector" in graph.worked_out:
            draft.note(
                "the size was worked out from a ratio and megapixels (ResolutionSelector) and may differ a little"
            )
        return loaded.name

    def since_a_new_start(self, steps: Sequence[Step]) -> Sequence[Step]:
        """The passes from the last one on that starts from pure noise with another model than the one before."""
        graph = self.graph
        for index in range(len(steps) - 1, 0, -1):
            step, before = steps[index], steps[index - 1]
            if step.continues or sampling(graph, Draft(), step.sampler).get("source.strength", 1.0) < 1:
                continue
            names = [loaded_by(graph, Draft(), one.sampler).name for one in (before, step)]
            if all(names) and names[0] != names[1]:
                self.draft.note(
                    f"ignored: a picture that was drawn before with {names[0][:120]}; "
                    f"{named(graph, step.sampler)} starts from it or is guided by it",
                    code="source_absent",
                )
                return steps[index:]
        return steps

    def sides(self, sampler: Node, side: str) -> Parts | None:
        """The texts on one side of a sampler; None where they cannot be found."""
        graph = self.graph
        source = graph.linked(sampler, "guider") or sampler
        graph.use(source)
        names = (side, "conditioning", "cond1") if side == "positive" else (side,)
        own = inputs_of(source).get(side)
        if isinstance(own, str):  # samplers of packs with prompts of their own
            return self.texts.parts((source, -1), side)
        found = graph.link(source, *names)
        parts = self.texts.parts(found, side)
        if parts is None and found is None and (before := graph.pipe(source)) is not None:
            parts = self.texts.parts((before, -1), side)
        if parts is None and found is not None:
            self.draft.note(
                f"ignored: the {side} prompt, which comes from the node {named(graph, found[0])}",
                code="prompt_ignored",
            )
        return parts

    def prompts(self, sides: Mapping[str, Parts | None]) -> None:
        draft = self.draft
        syntax, texts = together({side: parts for side, parts in sides.items() if parts is not None})
        if syntax != "comfyui":
            draft.set("conventions.syntax", syntax, "syntax")
        limited = any((part.start, part.end) != (0.0, 1.0) for parts in sides.values() for part in parts or ())
        if syntax == "a1111" and limited:
            draft.note(
                "texts of a time (ConditioningSetTimestepRange) may change a step earlier or later: ComfyUI counts "
                "shares of the timesteps, gesso shares of the steps",
                code="syntax_differs",
            )
        for side, field in (("positive", "prompt"), ("negative", "negative_prompt")):
            if side not in texts:
                continue
            text = texts[side]
            draft.set(field, text.text, side)
            if text.lost:
                draft.note(f"not supported: {text.lost}; the {side} prompt is drawn as one text", code="prompt_ignored")
        if sides.get("negative") is not None and not draft.values.get("negative_prompt"):
            empty = "as_trained" if self.texts.zeroed else "encoded"
            draft.set("conventions.empty_negative", empty, "negative")

    def skip(self) -> None:
        """CLIP skip, of the first text that has one."""
        for encoder in self.texts.encoders[:8]:
            clip = self.graph.upstream(
                self.graph.linked(encoder, "clip"), ("clip",), lambda node: kind_of(node) == "CLIPSetLastLayer"
            )
            skip = whole(self.graph.value(clip, "stop_at_clip_layer"))
            if skip is None:
                skip = whole(self.graph.value(encoder, "clip_skip", "base_clip_skip"))
            if skip is not None and skip < 0:
                self.graph.use(clip)
                self.draft.set("clip_skip", -skip, "stop_at_clip_layer")
                return

    def size(self, sampler: Node) -> None:
        graph, draft = self.graph, self.draft
        empty = empty_of(graph, sampler)
        start = graph.linked(sampler, "latent_image", "samples", "latent")
        size = None
        if empty is None and start is not None:
            size = encoded_size(graph, sampler)
            given = next((node for node in ancestors(graph, start) if kind_of(node) in PICTURE_LOADERS), None)
            graph.use(given)
            called = graph.value(given, "image", "file", "audio")
            which = f": {called[:80]}" if isinstance(called, str) else ""
            draft.note(f"image to image: the source picture is not in the file{which}", code="source_absent")
        graph.use(empty)
        for number, side in enumerate(("width", "height")):
            draft.set(side, size[number] if size is not None else first_side(graph, empty, side), side)
        if empty is not None and "Audio" not in kind_of(empty) and not {"width", "height"} <= draft.values.keys():
            draft.note(
                f"the size is not in the graph: {named(graph, empty)} takes it from another picture or a calculation",
                field="width",
            )

    def later(self, first: Step, later: Sequence[Step], loaded: Loaded, sides: Mapping[str, Parts | None]) -> None:
        """A refiner and a second pass; what else there is, is named."""
        hires = False
        for before, step in zip((first, *later), later, strict=False):
            self.graph.use(step.sampler)
            own = loaded_by(self.graph, Draft(), step.sampler)
            if step.continues and not hires and before is first:
                self.goes_on(first, step, loaded, own, sides)
            elif not hires and not (self.family and not enlarged(self.graph, step.between).nodes):
                hires = True
                self.second_pass(step, loaded, own, sides)
            else:
                self.draft.note(
                    f"not supported, ignored: a further pass, {named(self.graph, step.sampler)}", field="hires"
                )

    def in_one_node(self, sampler: Node) -> None:
        """A refiner or a second pass that a pack puts into the same sampler."""
        graph, draft = self.graph, self.draft
        refiner, at = graph.value(sampler, "refiner_ckpt_name"), whole(graph.value(sampler, "refine_at_step"))
        steps = draft.values.get("num_steps")
        if isinstance(refiner, str) and refiner != "None" and at is not None and steps and 0 <= at < steps:
            draft.set("refiner_switch_at", at / steps, "refine_at_step")
            draft.note(
                f"a second model, {refiner[:120]}, drew from step {at} of {steps}; give it with --refiner",
                code="refiner_needed",
                field="refiner_switch_at",
            )
        script = graph.linked(sampler, "script") if "script" in inputs_of(sampler) else None
        if script is None or not kind_of(script).startswith("HighRes-Fix"):
            return
        graph.use(script)
        latent = graph.value(script, "upscale_type") == "latent"
        called = graph.value(script, "latent_upscaler" if latent else "pixel_upscaler")
        model = graph.value(script, "hires_ckpt_name")
        if isinstance(model, str) and model not in ("(use same)", "None"):
            draft.note(f"not supported, ignored: the second pass has a model of its own, {model[:120]}")
        change = Enlarged((script,), upscaler=stem(called) if isinstance(called, str) else "", network=not latent)
        draft.values["hires"] = draft.part(
            HiresPass,
            "second pass",
            scale=real(graph.value(script, "upscale_by")),
            num_steps=whole(graph.value(script, "hires_steps")),
            strength=real(graph.value(script, "denoise")),
            upscaler=self.upscaler(Step(sampler), replace(change, latent=latent)),
        )

    def goes_on(self, first: Step, step: Step, loaded: Loaded, own: Loaded, sides: Mapping[str, Parts | None]) -> None:
        """A sampler that takes over in the middle of the steps."""
        graph, draft = self.graph, self.draft
        steps = draft.values.get("num_steps")
        split = split_of(graph, step.sampler)
        start = whole(graph.value(step.sampler, "start_at_step"))
        if start is None:
            start = whole(graph.value(split, "step"))
        graph.use(split)
        if own.name != loaded.name and own.name:
            for side in ("positive", "negative"):  # most often those of the first, encoded by its own encoders
                own_texts = self.sides(step.sampler, side)
                if own_texts and own_texts != sides.get(side):
                    text = written(own_texts, negative=side == "negative").text
                    draft.note(
                        f"not supported, ignored: the {side} prompt that the second model alone had: {short(text)}",
                        code="prompt_ignored",
                    )
            if start is not None and steps and 0 <= start <= steps:
                draft.set("refiner_switch_at", start / steps, "start_at_step")
            give = "" if self.family else "; give it with --refiner"
            draft.note(
                f"a second model, {own.name[:120]}, drew from step {start} of {steps}{give}",
                code="refiner_needed",
                field="refiner_switch_at",
            )
            if own.loras and own.loras != loaded.loras:
                draft.note(f"not supported, ignored: LoRA of the second model alone: {_listed(own.loras)}")
        later = sampling(graph, Draft(), step.sampler)
        differs = sorted(
            {
                key
                for key in ("guidance_scale", "sampler", "schedule")
                if key in later and later[key] != draft.values.get(key)
            }
        )
        other_loras = own.loras != loaded.loras and own.name == loaded.name
        if differs or other_loras:
            what = ", ".join([*differs, *([f"loras ({_listed(own.loras)})"] if other_loras else [])])
            draft.note(f"not supported, ignored: from step {start} on {named(graph, step.sampler)} has another {what}")

    def second_pass(self, step: Step, loaded: Loaded, own: Loaded, sides: Mapping[str, Parts | None]) -> None:
        graph, draft = self.graph, self.draft
        change = enlarged(graph, step.between)
        inside = real(graph.value(step.sampler, "upscale_by"))  # samplers of packs that enlarge themselves
        graph.use(*change.nodes)
        notes = Draft()
        values = sampling(graph, notes, step.sampler)
        draft.note_all(notes.notices)
        scale = change.scale
        if not change.nodes:
            scale = inside if inside is not None else 1.0
        elif not change.known:
            draft.note("the size of the second pass cannot be worked out", field="hires.scale")
        texts: dict[str, str] = {}
        for side, field in (("positive", "prompt"), ("negative", "negative_prompt")):
            parts = self.sides(step.sampler, side)
            if parts is not None and parts != sides.get(side):
                syntax = str(draft.values.get("conventions.syntax", "comfyui"))
                text = written(parts, negative=side == "negative", syntax=syntax)
                if text.syntax == syntax and not text.lost:
                    texts[field] = text.text
                else:
                    draft.note(f"not supported, ignored: the {side} prompt of the second pass", code="prompt_ignored")
        if own.name and own.name != loaded.name:
            draft.note(f"not supported, ignored: the second pass has a model of its own, {own.name[:120]}")
        if own.loras != loaded.loras:
            draft.note(f"not supported, ignored: the second pass has other LoRA: {_listed(own.loras)}")
        if values.get("seed") is not None and values["seed"] != draft.values.get("seed"):
            draft.note(f"not supported, ignored: the second pass has a seed of its own, {values['seed']}", field="seed")
        strength = values.get("source.strength", 1.0)
        keys = ("num_steps", "sampler", "schedule", "guidance_scale")
        draft.values["hires"] = draft.part(
            HiresPass,
            "second pass",
            scale=scale,
            width=change.width,
            height=change.height,
            upscaler=self.upscaler(step, change),
            strength=strength,
            **{key: values.get(key) for key in keys},
            **texts,
        )

    def upscaler(self, step: Step, change: Enlarged) -> str | None:
        """gesso's name for the upscaler before a second pass; None, with a notice, where there is none."""
        if not change.nodes:
            model = self.graph.linked(step.sampler, "upscale_model")
            called = self.graph.value(model, "model_name")
            if isinstance(called, str):
                self.graph.use(model)
                return upscaler_name(stem(called))
            decoded = any("VAEEncode" in kind_of(node) for node in step.between)
            return "lanczos" if decoded else "latent_nearest_exact"  # of the same size: nothing changes
        if not change.upscaler:
            return None
        if change.network:
            return upscaler_name(change.upscaler)
        name = upscaler_name(f"latent {change.upscaler}" if change.latent else change.upscaler)
        name = {"nearest-exact": "nearest", "area": "box"}.get(name, name)
        if name in LATENT_UPSCALERS or name in _PICTURE_UPSCALERS:
            return name
        self.draft.note(
            f"not supported, ignored: enlarging by {change.upscaler[:40]} before the second pass",
            field="hires.upscaler",
        )
        return "latent_bilinear" if change.latent else None
