"""`gesso prompt PROMPT`: how it is read: pieces, weights, chunks, steps, adapters."""

import json
from typing import Annotated

import typer

from gesso.cli.adapter_options import EmbeddingOption, LoraOption, parse_embeddings, parse_loras
from gesso.cli.generate import parse_settings
from gesso.cli.model_option import ModelOption, OfflineOption
from gesso.cli.prompt_options import DynamicOption, StyleOption, StylesOption, SyntaxOption, WildcardsOption
from gesso.errors import GessoError
from gesso.request.request import TextToImageRequest
from gesso.studio.front_ends import open_front_end, syntax_settings
from gesso.studio.prompts import read_prompts
from gesso.studio.studio import Studio


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
    loras, lora_files = parse_loras(lora or [])
    request = TextToImageRequest(
        **(parse_settings(settings or []) | syntax_settings(syntax) | {"preset": preset}),
        prompt=" ".join(prompt),
        negative_prompt=negative_prompt,
        num_steps=steps,
        seed=seed,
        num_images=number,
        loras=loras,
    )
    studio = Studio(offline=offline)
    readings = read_prompts(
        studio,
        request,
        model=model,
        family=family,
        front=open_front_end(syntax, style, styles, wildcards, dynamic_prompts),
        finder=studio.finder({"lora": lora_files, "embedding": parse_embeddings(embedding or [])}),
    )
    for each in readings:
        if as_json:
            values = {"prompt": each.request.prompt, "negative_prompt": each.request.negative_prompt}
            values |= each.reading.to_dict() | {"notices": [*each.notices, *each.reading.notices]}
            print(json.dumps(values, ensure_ascii=False))
            continue
        for line in (*(f"note: {notice}" for notice in each.notices), *each.reading.lines):
            print(_safe(line))


def _safe(line: str) -> str:
    """On one line, nothing that a terminal obeys; the room before it stays."""
    return line[: len(line) - len(line.lstrip())] + GessoError(line).one_line
