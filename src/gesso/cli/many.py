"""Shared by commands that draw many pictures into one folder and can resume: grid and batch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.cli.adapter_options import parse_embeddings, parse_loras
from gesso.cli.control_options import parse_controls
from gesso.notices import Notice
from gesso.studio.events import Event, Noticed
from gesso.studio.files import Files
from gesso.studio.front_ends import open_front_end
from gesso.studio.sources import Sources, control_files, read_controls, read_sources

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.frontends.front_end import FrontEnd
    from gesso.studio.many import Job, Run, RunSummary
    from gesso.studio.run_folder import RunFolder


@dataclass(frozen=True)
class RunOptions:
    """The options that all pictures of a run share, as `gesso generate` has them.

    fields    of every request
    hints     ControlNet hints (control images)
    files     LoRA, embeddings and ControlNet models given as files
    front     expands styles, wildcards and flags in a prompt
    recorded  the options as typed, by which an interrupted run is recognized
    """

    fields: dict[str, Any]
    hints: "tuple[Image, ...]"
    files: Files
    front: "FrontEnd"
    recorded: dict[str, Any]

    @classmethod
    def parse(
        cls,
        *,
        control: list[str] | None,
        lora: list[str] | None,
        embedding: list[Path] | None,
        style: list[str] | None,
        styles: Path | None,
        wildcards: Path | None,
        dynamic_prompts: bool,
    ) -> "RunOptions":
        """Raises GessoError."""
        controls = parse_controls(control or [])
        uses, hints = read_controls(controls)
        loras, lora_files = parse_loras(lora or [])
        files: Files = {
            "lora": lora_files,
            "embedding": parse_embeddings(embedding or []),
            **control_files(controls),
        }
        recorded = {
            "control": control or [],
            "lora": lora or [],
            "embedding": [str(path) for path in embedding or []],
            "style": style or [],
            "styles": str(styles) if styles is not None else None,
            "wildcards": str(wildcards) if wildcards is not None else None,
            "dynamic_prompts": dynamic_prompts,
        }
        front = open_front_end(None, style, styles, wildcards, dynamic_prompts)
        return cls({"controls": uses, "loras": loras}, hints, files, front, recorded)

    def sources(self, image: Path | None, mask: Path | None) -> Sources:
        """The source, mask and hints of every request. Raises GessoError for a file that is not a picture."""
        sources = read_sources(image, mask)
        return Sources(image=sources.image, mask=sources.mask, hints=self.hints)


@dataclass(kw_only=True)
class Told:
    """What a run tells about its pictures, for --json: notices by the files of pictures."""

    notices: dict[str, list[Notice]] = field(default_factory=dict)
    drawn: int = 0

    def on_event(self, event: Event) -> None:
        """For `Run.pictures`."""
        if isinstance(event, Noticed):
            self.notices.setdefault(event.about, []).append(event.notice)

    def of(self, run: "Run", job: "Job") -> list[Notice]:
        """The notices of a picture; those of one that was drawn before come from its file."""
        if job.file not in self.notices:
            from gesso.pictures.picture_file import read_recipe

            self.notices[job.file] = list(read_recipe(run.folder.picture(job.file)).notices)
        return self.notices[job.file]

    def seed(self, run: "Run", job: "Job") -> int:
        """Of a picture: its own, or that of the run."""
        return run.folder.seed if job.request.seed is None else job.request.seed

    def picture(self, run: "Run", job: "Job", image: "Image") -> dict[str, Any]:
        """A picture that has just come: new says whether it was drawn now."""
        new, self.drawn = run.drawn > self.drawn, run.drawn
        return {
            "seed": self.seed(run, job),
            "index": job.request.first_index,
            "width": image.width,
            "height": image.height,
            "model": job.model,
            "new": new,
        }


def open_folder(output: Path | None, default: str, what: dict[str, Any], seed: int | None) -> "RunFolder":
    """The folder of --output, else outputs/DEFAULT, or the next that is free or holds this very run."""
    from gesso.studio.run_folder import begin_run, open_run

    seed = None if seed == -1 else seed  # -1 is how other tools ask for a random one
    return open_run(output, what, seed) if output is not None else begin_run(Path("outputs", default), what, seed)


def summary_line(summary: "RunSummary") -> str:
    """How many pictures of a run are new."""
    done = summary.total - summary.drawn
    pictures = "1 picture" if summary.total == 1 else f"{summary.total} pictures"
    return f"{pictures}: {summary.drawn} new, {done} already done; seed {summary.seed}"
