"""`gesso prompt PROMPT`: how it is read: pieces, weights, chunks, steps, adapters."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption, make_finder, parse_embeddings, parse_loras
from gesso.cli.generate import parse_settings
from gesso.cli.model_option import ModelOption, OfflineOption, resolve_model
from gesso.cli.prompt_options import (
    DynamicOption,
    StyleOption,
    StylesOption,
    SyntaxOption,
    WildcardsOption,
    read_front_end,
    syntax_of,
)
from gesso.errors import GessoError
from gesso.request.request import TextToImageRequest


def command(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="As `gesso generate` takes it.")],
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", metavar="TEXT", help="And the negative one.")
    ] = "",
    steps: Annotated[
        int | None, typer.Option("--steps", "-s", help="Sampling steps, over which prompts change.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", "-S", help="Seed, by which wildcards are drawn.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many pictures, each with its draws.")] = 1,
    preset: Annotated[str | None, typer.Option("--preset", help="gesso, a1111, diffusers.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One convention, such as emphasis=original.")
    ] = None,
    syntax: SyntaxOption = None,
    style: StyleOption = None,
    styles: StylesOption = None,
    wildcards: WildcardsOption = None,
    dynamic_prompts: DynamicOption = False,
    lora: LoraOption = None,
    embedding: EmbeddingOption = None,
    model: ModelOption = "gesso-mini",
    offline: OfflineOption = False,
    family: Annotated[
        str | None, typer.Option("--family", help="What the file is, where it cannot tell by itself: sd21, sdxl, ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, a line for each picture.")] = False,
) -> None:
    """Show how a prompt is read, without drawing it.

    Its pieces with their weights, the steps that have them, tokens in each chunk, what found no room or is not known to
    the model, and the LoRA and learned words that it names.
    """
    front = read_front_end(syntax, style, styles, wildcards, dynamic_prompts)
    loras, files = parse_loras(lora or [])
    finder = make_finder({"lora": files, "embedding": parse_embeddings(embedding or [])})
    request = TextToImageRequest(
        **(parse_settings(settings or []) | syntax_of(syntax) | {"preset": preset}),
        prompt=" ".join(prompt),
        negative_prompt=negative_prompt,
        num_steps=steps,
        seed=seed,
        num_images=number,
        loras=loras,
    )
    path = resolve_model(model, offline=offline)
    import torch

    from gesso.families.loading import load_parts
    from gesso.pipelines.defaults import defaults_for
    from gesso.pipelines.prompt_reading import read_request
    from gesso.request.names import with_canonical_names
    from gesso.runtime.engine import find_model
    from gesso.runtime.model import LoadedModel
    from gesso.runtime.precision import choose_precision
    from gesso.runtime.shelf import AdapterShelf

    device = torch.device("cpu")
    parts = load_parts(find_model(path), dtype=None, check=False, family=family)
    loaded = LoadedModel(
        name=Path(model).name, parts=parts, device=device, precision=choose_precision("float32", device)
    )
    shelf = AdapterShelf()
    for written in front.requests(with_canonical_names(request), parts.family):
        resolved = written.request.resolve(defaults_for(written.request, parts.family))
        found = read_request(resolved, loaded, finder, shelf)
        if as_json:
            values = {"prompt": resolved.prompt, "negative_prompt": resolved.negative_prompt} | found.to_dict()
            print(json.dumps(values | {"notices": [*written.notices, *found.notices]}, ensure_ascii=False))
            continue
        for line in (*(f"note: {notice}" for notice in written.notices), *found.lines):
            print(_safe(line))


def _safe(line: str) -> str:
    """On one line, nothing that a terminal obeys; the room before it stays."""
    return line[: len(line) - len(line.lstrip())] + GessoError(line).one_line
