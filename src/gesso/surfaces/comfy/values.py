"""What the outputs of nodes are before anything is drawn: models, texts, latents, pictures, as their graph makes them.

All of them are compared by value, so that parts of a graph which say the same are the same.
"""

from dataclasses import dataclass, field

from gesso.metadata.comfyui_texts import Part
from gesso.serving.jobs import Upload

Size = tuple[int, int]  # width, height


# ---- models


@dataclass(frozen=True)
class Lora:
    """node: that loads it, by which those of the UNet and of the text encoder are matched"""

    node: str
    name: str
    weight: float


@dataclass(frozen=True)
class Model:
    """A UNet.  node: of its loader; differential: masks are shades of when a place is redrawn"""

    checkpoint: str
    loras: tuple[Lora, ...] = ()
    rescale: float | None = None
    differential: bool = False


@dataclass(frozen=True)
class Clip:
    """A text encoder.  skip: layers from the end, 1 is the last; None: the model's own"""

    checkpoint: str
    loras: tuple[Lora, ...] = ()
    skip: int | None = None


@dataclass(frozen=True)
class Vae:
    """An autoencoder."""

    checkpoint: str


@dataclass(frozen=True)
class ControlNet:
    """A control network by its name."""

    name: str


@dataclass(frozen=True)
class UpscaleModel:
    """An upscaler network by its name."""

    name: str


# ---- pictures and masks


@dataclass(frozen=True)
class Loaded:
    """An uploaded picture."""

    upload: Upload

    @property
    def size(self) -> Size:
        return self.upload.width, self.upload.height


@dataclass(frozen=True)
class Scaled:
    """A picture brought to a size.  crop: "center" cuts to the shape first, "disabled" stretches"""

    picture: "Picture"
    method: str
    size: Size
    crop: str = "disabled"
    node: str = field(default="", compare=False)


@dataclass(frozen=True)
class Inverted:
    """The negative of a picture."""

    picture: "Picture"

    @property
    def size(self) -> Size:
        return self.picture.size


@dataclass(frozen=True)
class Padded:
    """A picture with grey borders: left, top, right, bottom in pixels."""

    picture: "Picture"
    sides: tuple[int, int, int, int]

    @property
    def size(self) -> Size:
        return _padded(self.picture.size, self.sides)


@dataclass(frozen=True)
class Cropped:
    """The middle of a picture."""

    picture: "Picture"
    size: Size


@dataclass(frozen=True)
class Greyed:
    """A picture whose masked part is grey, as ComfyUI encodes it for inpainting."""

    picture: "Picture"
    mask: "Mask"

    @property
    def size(self) -> Size:
        return self.picture.size


@dataclass(frozen=True)
class OfMask:
    """A mask as a picture."""

    mask: "Mask"

    @property
    def size(self) -> Size:
        return self.mask.size


@dataclass(frozen=True)
class Drawn:
    """A picture that is to be drawn: decoded latents."""

    latent: "Latent"

    @property
    def size(self) -> Size:
        return self.latent.size


@dataclass(frozen=True)
class Upscaled:
    """A picture enlarged by a network, whose factor the graph does not tell."""

    picture: "Picture"
    model: UpscaleModel
    node: str = field(default="", compare=False)

    @property
    def size(self) -> Size:
        return self.picture.size


@dataclass(frozen=True)
class AlphaMask:
    """Where a picture is transparent; for an opaque one, nowhere."""

    upload: Upload

    @property
    def size(self) -> Size:
        return self.upload.width, self.upload.height


@dataclass(frozen=True)
class ChannelMask:
    """A channel of a picture: red, green, blue."""

    picture: "Picture"
    channel: str

    @property
    def size(self) -> Size:
        return self.picture.size


@dataclass(frozen=True)
class InvertedMask:
    """What a mask leaves out."""

    mask: "Mask"

    @property
    def size(self) -> Size:
        return self.mask.size


@dataclass(frozen=True)
class GrownMask:
    """A mask wider by pixels, or narrower.  tapered: corners stay out

    rounded: as for inpainting: a square, of whole values
    """

    mask: "Mask"
    pixels: int
    tapered: bool = False
    rounded: bool = False

    @property
    def size(self) -> Size:
        return self.mask.size


@dataclass(frozen=True)
class SolidMask:
    """One value everywhere."""

    value: float
    size: Size


@dataclass(frozen=True)
class BorderMask:
    """What was added around a picture, and a soft edge inside it."""

    inside: Size
    sides: tuple[int, int, int, int]
    feathering: int

    @property
    def size(self) -> Size:
        return _padded(self.inside, self.sides)


@dataclass(frozen=True)
class FittedMask:
    """A mask stretched to a size, as torch interpolates (bilinear)."""

    mask: "Mask"
    size: Size


@dataclass(frozen=True)
class CroppedMask:
    """The middle of a mask."""

    mask: "Mask"
    size: Size


Picture = Loaded | Scaled | Inverted | Padded | Cropped | Greyed | OfMask | Drawn | Upscaled
Mask = AlphaMask | ChannelMask | InvertedMask | GrownMask | SolidMask | BorderMask | FittedMask | CroppedMask


def _padded(size: Size, sides: tuple[int, int, int, int]) -> Size:
    left, top, right, bottom = sides
    return size[0] + left + right, size[1] + top + bottom


def is_drawn(picture: Picture) -> bool:
    """Whether a picture comes out of a sampler."""
    match picture:
        case Drawn():
            return True
        case Loaded() | OfMask():
            return False
        case _:
            return is_drawn(picture.picture)


def is_made(picture: Picture) -> bool:
    """Whether a picture can be made without a network."""
    match picture:
        case Drawn() | Upscaled():
            return False
        case Loaded() | OfMask():
            return True
        case _:
            return is_made(picture.picture)


def mask_is_made(mask: Mask) -> bool:
    """The same for a mask."""
    match mask:
        case ChannelMask():
            return is_made(mask.picture)
        case AlphaMask() | SolidMask() | BorderMask():
            return True
        case _:
            return mask_is_made(mask.mask)


# ---- texts


@dataclass(frozen=True)
class Control:
    """A control network that steers.  node: that applies it"""

    node: str
    network: ControlNet
    picture: Picture
    weight: float
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Text:
    """A text as an encoder gives it.  inpaint: node of InpaintModelConditioning, "" where there is none"""

    part: Part
    clip: Clip
    controls: tuple[Control, ...] = ()
    zeroed: bool = False
    inpaint: str = ""


Conditioning = tuple[Text, ...]


# ---- latents


@dataclass(frozen=True)
class Empty:
    """Latents of zeros."""

    size: Size
    batch: int
    masked: bool = False


@dataclass(frozen=True)
class Encoded:
    """The latents of a picture.

    vae      that encodes it
    content  what stands under the mask: "original", or "grey" for what VAEEncodeForInpaint makes of it
    mask     what is redrawn; None: everything
    inpaint  node of InpaintModelConditioning
    """

    picture: Picture
    vae: Vae
    mask: Mask | None = None
    batch: int = 1
    inpaint: str = ""

    @property
    def size(self) -> Size:
        return self.picture.size


@dataclass(frozen=True)
class Enlarged:
    """Latents interpolated to a size."""

    node: str
    latent: "Latent"
    method: str
    size: Size
    crop: str = "disabled"

    @property
    def batch(self) -> int:
        return self.latent.batch


@dataclass(frozen=True)
class Sampled:
    """What a sampler makes of latents.

    node           of the sampler
    steps, before  steps that are run, and steps of the schedule before them
    """

    node: str
    model: Model
    positive: Conditioning
    negative: Conditioning
    latent: "Latent"
    seed: int
    steps: int
    before: int
    guidance: float
    sampler: str
    scheduler: str

    @property
    def size(self) -> Size:
        return self.latent.size

    @property
    def batch(self) -> int:
        return self.latent.batch


Latent = Empty | Encoded | Enlarged | Sampled


# ---- parts of samplers


@dataclass(frozen=True)
class Noise:
    """The seed of the noise."""

    seed: int


@dataclass(frozen=True)
class Solver:
    """A sampler by its name."""

    name: str


@dataclass(frozen=True)
class Sigmas:
    """A schedule: steps that are run, and those of it before them."""

    scheduler: str
    steps: int
    before: int


@dataclass(frozen=True)
class Guider:
    """Model, texts and guidance."""

    model: Model
    positive: Conditioning
    negative: Conditioning
    guidance: float


# ---- what is wanted


@dataclass(frozen=True)
class Wanted:
    """A picture at an output node.

    prefix  of its file's name; kind: "output" (saved), "temp" (a preview), "socket" (sent, never named)
    """

    node: str
    picture: Picture
    prefix: str
    kind: str
