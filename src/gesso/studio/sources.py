"""The pictures that go into a request: the picture to start from, its mask, and ControlNet hints, read from files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from gesso.arguments import check_type, known_fields, refused
from gesso.errors import GessoError
from gesso.request.parts import ControlUse
from gesso.studio.files import Files

if TYPE_CHECKING:
    from PIL.Image import Image

    from gesso.request.recipe import Recipe


class PictureArguments(TypedDict):
    """The arguments of `TextToImage.resolve`."""

    image: "Image | None"
    mask: "Image | None"


class SourceArguments(PictureArguments):
    """The arguments of `TextToImage.__call__`."""

    hints: "Sequence[Image]"


@known_fields()
@dataclass(frozen=True, kw_only=True)
class Sources:
    """The pictures of a request, in memory.

    image  source picture (image to image)
    mask   inpainting mask of the image; white areas are redrawn
    hints  ControlNet hints and IP-Adapter image prompts, which the request names by their hashes; in any order
    """

    image: "Image | None" = None
    mask: "Image | None" = None
    hints: "tuple[Image, ...]" = ()

    def __post_init__(self) -> None:
        """Raises ArgumentError for anything but pictures: `read_sources` and `read_image` read files."""
        from PIL.Image import Image

        if not isinstance(self.hints, tuple | list):
            raise refused("hints", self.hints, "a tuple of PIL pictures")
        given = {"image": self.image, "mask": self.mask}
        given |= {f"hints[{place}]": hint for place, hint in enumerate(self.hints)}
        for name, picture in given.items():
            if picture is not None or name.startswith("hints"):
                check_type(name, picture, Image, "a PIL picture, such as read_image gives for a file")

    @property
    def pictures(self) -> PictureArguments:
        """For `TextToImage.resolve`."""
        return {"image": self.image, "mask": self.mask}

    @property
    def arguments(self) -> SourceArguments:
        """For a call of `TextToImage`, and its `plans` and `expected`."""
        return {"image": self.image, "mask": self.mask, "hints": self.hints}


def read_sources(
    image: Path | None = None, mask: Path | None = None, hints: Sequence[Path] = (), *, invert_mask: bool = False
) -> Sources:
    """Pictures from files. Raises GessoError for a file that is no picture.

    invert_mask  invert the mask: black areas are redrawn
    """
    from PIL import ImageOps

    from gesso.pictures.reading import read_hint, read_image, read_mask

    if invert_mask and mask is None:
        raise GessoError("`mask_invert` needs a mask; give one with `mask`", code="mask_missing", field="mask_invert")
    grey = read_mask(mask) if mask is not None else None
    return Sources(
        image=read_image(image) if image is not None else None,
        mask=ImageOps.invert(grey) if grey is not None and invert_mask else grey,
        hints=tuple(read_hint(path) for path in hints),
    )


@dataclass(frozen=True)
class ControlFile:
    """One ControlNet, T2I-Adapter or IP-Adapter with the file of its control image, before that is read.

    model    the name of the network in the request
    file     the network's file or folder; None: a `Finder` knows the name
    image    file of the control image
    fields   of `gesso.request.parts.ControlUse`, besides model and image
    encoder  file or folder of an IP-Adapter's image encoder, which fields["encoder"] names
    """

    model: str
    file: Path | None
    image: Path
    fields: dict[str, Any] = field(default_factory=dict)
    encoder: Path | None = None


def control_files(controls: Sequence[ControlFile]) -> Files:
    """The files of networks and image encoders, for a finder. Raises GessoError where two have one name."""
    networks: dict[str, Path] = {}
    for control in controls:
        if control.file is not None and networks.setdefault(control.model, control.file) != control.file:
            raise GessoError(
                f"`controls` {control.file}: {networks[control.model]} has the same name; rename one of them",
                code="file_name_twice",
                field="controls",
                data={"path": str(control.file), "other": str(networks[control.model])},
            )
    encoders = {control.fields["encoder"]: control.encoder for control in controls if control.encoder is not None}
    return {"control": networks, "image_encoder": encoders}


def read_controls(controls: Sequence[ControlFile]) -> "tuple[tuple[ControlUse, ...], tuple[Image, ...]]":
    """The controls of a request, and their pictures for `Sources.hints`. Raises GessoError for a file that is none."""
    from gesso.pictures.reading import read_hint
    from gesso.pipelines.hint_pictures import hint_digest

    images = tuple(read_hint(control.image) for control in controls)
    uses = tuple(
        ControlUse(model=control.model, image=hint_digest(image), **control.fields)
        for control, image in zip(controls, images, strict=True)
    )
    return uses, images


def check_sources(recipe: "Recipe", image: object, mask: object, hints: Sequence[object], where: str | Path) -> None:
    """Whether the pictures that a recipe was drawn from are given; which they are is checked when it is drawn.

    image, mask, hints  the pictures or their files; None and () where they are not given
    where               what the recipe was read from, for the error
    Raises GessoError (code source_missing, source_not_needed).
    """
    request = recipe.request
    for name, digest, source in (("image", request.source.image, image), ("mask", request.mask.image, mask)):
        if digest is not None and source is None:
            raise GessoError(
                f"{where}: drawn from the {name} {digest[:10]}..., which the recipe does not contain. "
                f"Give it with `{name}`",
                code="source_missing",
                field=name,
                data={"sha256": digest},
            )
        if digest is None and source is not None:
            raise GessoError(
                f"{where}: drawn without a {'mask' if name == 'mask' else 'source picture'}; leave `{name}` out",
                code="source_not_needed",
                field=name,
            )
    digests = list(dict.fromkeys(use.image for use in request.controls))
    if len(hints) < len(digests):  # one picture may serve several networks
        several = len(digests) > 1
        raise GessoError(
            f"{where}: drawn with {len(digests)} control image{'s' if several else ''} "
            f"({', '.join(f'{digest[:10]}...' for digest in digests)}), which the recipe does not contain. "
            "Give each with `hints`",
            code="source_missing",
            field="hints",
            data={"sha256": digests},
        )
