"""`gesso generate PROMPT`: parse, build one request, draw, write."""

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.progress import Bar
from gesso.cli.session import check_names, load_pipeline
from gesso.errors import GessoError
from gesso.pipelines.request import TextToImageRequest

if TYPE_CHECKING:
    from gesso.pipelines.text_to_image import Picture, Progress


def command(
    prompt: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; several words need no quotes.")],
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", metavar="TEXT", help="What to lead away from.")
    ] = "",
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Size in pixels, such as 512x768, or 512 for a square.")
    ] = None,
    width: Annotated[int | None, typer.Option("--width", "-W", help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option("--height", "-H", help="Height in pixels.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "-s", help="Sampling steps.")] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", "--cfg-scale", help="How strongly the prompt leads; 1 switches it off."),
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option("--guidance-rescale", help="Against washed-out colours at high guidance, 0 to 1.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="euler, euler_ancestral, heun, ddim, dpmpp_2m, dpmpp_2m_sde, ...")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", "--scheduler", help="Spacing of the steps: uniform, karras, ...")
    ] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="Noise that ancestral samplers put back, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", "-S", help="Seed; a random one where left out or -1.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many pictures.")] = 1,
    index: Annotated[int, typer.Option("--index", help="Index of the first picture: picture 3 of a run alone.")] = 0,
    noise: Annotated[
        str | None, typer.Option("--noise", help="Source of the noise: philox, or cpu and nv as other tools have it.")
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option("--clip-skip", help="Layer of the text encoder, from the end: 1 is the last.")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="gesso-mini, a .safetensors file or a diffusers folder."),
    ] = "gesso-mini",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=256, help="Pictures at a time; above 1 the last bits may differ.")
    ] = 1,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder or pattern such as pictures/{seed}-{index:03}.png. "
            "Where left out: outputs/gesso-<seed>.png, with _2, _3, ... where that is taken.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notices.")] = False,
) -> None:
    """Draw pictures from a prompt and print path, seed and time of each."""
    begin = time.perf_counter()
    text = " ".join(prompt)
    if not text.strip():
        raise GessoError("the prompt is empty. Say what to draw, such as: gesso generate a red car")
    width, height = _size(size, width, height)
    request = TextToImageRequest(
        prompt=text,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        num_steps=steps,
        guidance_scale=guidance,
        guidance_rescale=guidance_rescale,
        sampler=sampler,
        schedule=schedule,
        eta=eta,
        seed=None if seed == -1 else seed,  # -1 is how other tools ask for a random one
        num_images=number,
        first_index=index,
        noise=noise,
        clip_skip=clip_skip,
    )
    from gesso.pipelines.output_names import plan

    names = plan(output, num_images=number, first_index=index, overwrite=overwrite)
    shown: set[str] = set()
    with Bar(quiet=quiet, keep=number == 1 or not sys.stderr.isatty()) as bar:
        bar.stage("starting")
        import torch  # noqa: F401  (takes a second or two; the bar is there already)

        check_names(request)
        bar.stage(f"loading {Path(model).name}")
        pipeline = load_pipeline(model, device=device, dtype=dtype, threads=threads, batch=batch)
        resolved = pipeline.resolve(request)
        last = time.perf_counter()
        startup = last - begin
        for picture in pipeline(resolved, lambda state: bar.step(*_step(state))):
            for notice in dict.fromkeys(picture.notices):
                if notice not in shown:
                    bar.note(f"note: {notice}")
                    shown.add(notice)
            path = names.save(picture.to_png(), picture.recipe)
            now = time.perf_counter()
            bar.result(_line(path, picture, now - last, as_json=as_json))
            last = now
        count = f"{number} picture{'s' if number > 1 else ''}"
        bar.note(f"{count} in {time.perf_counter() - begin:.1f} s, {startup:.1f} s of it to start")


def _size(size: str | None, width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """--size or --width and --height, not both."""
    if size is None:
        return width, height
    if width is not None or height is not None:
        raise GessoError("--size and --width or --height: give one or the other")
    match = re.fullmatch(r"(\d{1,6})(?:\s*[x×*,:]\s*(\d{1,6}))?", size.strip().lower())
    if not match:
        raise GessoError(f"--size {size[:40]}: expected WIDTHxHEIGHT in pixels, such as 512x768, or one number")
    return int(match[1]), int(match[2] or match[1])


def _step(state: "Progress") -> tuple[str, int, int]:
    if state.num_images == 1:
        text = "drawing"
    elif state.count == 1:
        text = f"picture {state.first + 1} of {state.num_images}"
    else:
        text = f"pictures {state.first + 1} to {state.first + state.count} of {state.num_images}"
    return text, state.step, state.num_steps


def _line(path: Path, picture: "Picture", seconds: float, *, as_json: bool) -> str:
    request = picture.recipe.request
    index = f" index={picture.index}" if picture.index else ""
    if not as_json:
        return f"{GessoError(str(path)).one_line} seed={picture.seed}{index} time={seconds:.1f}s"
    return json.dumps(
        {
            "path": str(path),
            "seed": picture.seed,
            "index": picture.index,
            "seconds": round(seconds, 3),
            "width": request.width,
            "height": request.height,
            "model": picture.recipe.model,
            "notices": picture.notices,
        },
        ensure_ascii=False,
    )
