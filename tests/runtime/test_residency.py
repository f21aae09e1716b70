"""Networks at rest in their file and settled in memory."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gesso.families.loading import load_parts
from gesso.runtime.engine import Engine, LoadedModel
from gesso.runtime.mapped import MappedFiles, MemoryBlock
from gesso.runtime.precision import choose_precision
from gesso.runtime.residency import Component, Residency, onloaded
from tiny_models import save_tiny_mini

CPU = torch.device("cpu")
MAPS = Path("/proc/self/maps")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_mini(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def load(file: Path) -> Residency:
    parts = load_parts(file, dtype=None, check=False)
    return Residency(parts, CPU, dict.fromkeys(parts.networks, torch.float32), file)


def numbers(network: nn.Module) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in network.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_settling_is_what_converting_gives(file: Path, dtype: torch.dtype):
    plain = load_parts(file, dtype=torch.float32).networks
    residency = load(file)
    for name, component in residency.components.items():
        component.onload(dtype)
        found = numbers(component.network)
        for key, param in plain[name].named_parameters():
            assert found[key].dtype == dtype
            assert torch.equal(found[key], param.to(dtype)), key  # the file is float16: one rounding at most


def test_convolutions_lie_channels_last(file: Path):
    residency = load(file)
    residency.use("unet")
    weight = residency.components["unet"].network.get_parameter("conv_in.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_rest_gives_the_file_back_and_settles_again_to_the_same_bits(file: Path):
    component = load(file).components["unet"]
    stored = {name: param.data_ptr() for name, param in component.network.named_parameters()}
    component.onload(torch.float32)
    settled = numbers(component.network)
    component.offload()
    assert {name: param.data_ptr() for name, param in component.network.named_parameters()} == stored
    component.onload(torch.float32)
    assert all(torch.equal(param, settled[name]) for name, param in component.network.named_parameters())


def test_streamed_layers_compute_the_same_bits_and_hold_nothing(file: Path):
    component = load(file).components["unet"]
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])
    context, added = torch.ones(2, 16, 16), torch.ones(2, 16)
    with torch.inference_mode():
        component.onload(torch.float32)
        expected = component.network(x, t, context, added)
        assert component.is_onloaded
        component.stream(torch.float32)
        assert not component.is_onloaded  # its numbers come and go: at no time are they all in memory
        assert torch.equal(component.network(x, t, context, added), expected)
    assert {param.dtype for param in component.network.parameters()} == {torch.float16}
    component.onload(torch.float32)
    assert {param.dtype for param in component.network.parameters()} == {torch.float32}
    assert torch.equal(component.network(x, t, context, added), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_a_network_is_in_memory_within_a_block_alone(file: Path, fails: bool):
    component = load(file).components["unet"]
    with suppress(ZeroDivisionError), onloaded(component, torch.float32):
        assert component.is_onloaded
        if fails:
            raise ZeroDivisionError
    assert not component.is_onloaded
    assert component.dtype is None


def test_networks_take_turns(file: Path):
    residency = load(file)
    for name in residency.components:
        residency.use(name, stay="turns")
        assert [other for other, component in residency.components.items() if component.dtype] == [name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_when_they_are_settled(tmp_path: Path, bad: float):
    for shape in ((), (3,), (2, 3), (4, 3, 3, 3), (8, 4, 1, 1)):
        module = nn.Module()
        module.weight = nn.Parameter(torch.zeros(shape))
        module.weight.data.reshape(-1)[-1] = bad
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(ModelFileError) as found:
                Component("unet", module, CPU, "x.safetensors").onload(dtype)
            assert found.value.reason == "nonfinite"


def test_numbers_beyond_half_precision_are_named_as_that():
    module = nn.Module()
    module.weight = nn.Parameter(torch.full((4, 4), 1e6))
    with pytest.raises(ModelFileError, match="overflows") as found:
        Component("vae", module, CPU, "x.safetensors").onload(torch.float16)
    assert found.value.reason == "overflow"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_widened(tmp_path: Path, dtype: torch.dtype):
    stored = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    write_safetensors(tmp_path / "x.safetensors", {"w": stored}, {})
    module = nn.Module()
    with open_safetensors(tmp_path / "x.safetensors").reader() as reader:
        module.weight = nn.Parameter(reader["w"], requires_grad=False)
    component = Component("unet", module, CPU, "x")
    component.onload(torch.bfloat16)
    assert torch.equal(module.weight, stored.to(torch.bfloat16))
    component.offload()
    module.weight.data = torch.empty(0)
    broken = stored.clone()
    broken.view(torch.uint8)[3, 4] = 0x7F  # NaN in both
    module.weight = nn.Parameter(broken, requires_grad=False)
    with pytest.raises(ModelFileError, match="NaN"):
        Component("unet", module, CPU, "x").onload(torch.bfloat16)


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux lists the mapped files of a process")
def test_only_pages_of_files_are_given_back(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": torch.arange(2**20, dtype=torch.float32)}, {})
    with open_safetensors(path).reader() as reader:
        mapped = reader["w"]
    own = mapped.clone()
    files = MappedFiles.now()
    assert files.shows(mapped)
    assert files.shows(mapped[5:][::2])
    assert not files.shows(own)
    for tensor in (mapped, own):
        files.fetch(tensor)
        files.release(tensor)
    assert torch.equal(mapped, own)  # the file was read again; our own memory was left alone


def test_blocks_hold_what_was_asked_for():
    block = MemoryBlock([(3, torch.float32), (0, torch.bfloat16), (5, torch.bfloat16)])
    first, none, second = block.take(3, torch.float32), block.take(0, torch.bfloat16), block.take(5, torch.bfloat16)
    first.fill_(1)
    second.fill_(2)
    del block
    assert (first.tolist(), none.tolist(), second.tolist()) == ([1.0] * 3, [], [2.0] * 5)
    assert second.data_ptr() % 64 == 0


def test_an_engine_without_a_limit_is_ready_when_it_has_loaded(file: Path):
    model = Engine("cpu", "bfloat16").load(file)
    assert all(component.is_onloaded for component in model.residency.components.values())
    assert {component.dtype for name, component in model.residency.components.items() if name != "text"} == {
        torch.bfloat16
    }
    waiting = Engine("cpu", memory="64GiB").load(file)
    assert not any(component.is_onloaded for component in waiting.residency.components.values())


def test_float32_stays_where_the_file_has_it(tmp_path: Path):
    """A matrix that needs no change is not copied."""
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": torch.ones(64, 64)}, {})
    module = nn.Module()
    with open_safetensors(path).reader() as reader:
        module.weight = nn.Parameter(reader["w"], requires_grad=False)
    before = module.weight.data_ptr()
    Component("unet", module, CPU, path).onload(torch.float32)
    assert module.weight.data_ptr() == before


def test_a_changed_file_gives_no_hash(tmp_path: Path):
    from gesso.errors import GessoError

    path = save_tiny_mini(tmp_path / "tiny.safetensors")
    model: LoadedModel = Engine("cpu").load(path)
    path.touch()
    with pytest.raises(GessoError, match="changed or removed"):
        _ = model.files
    asked: list[Path] = []

    def hash_file(asked_for: Path) -> str:
        asked.append(asked_for)
        return "0" * 64

    cached = Engine("cpu", hash_file=hash_file).load(path)
    assert not asked
    assert cached.files == (("tiny.safetensors", "0" * 64),)
    assert choose_precision("bfloat16", CPU).of("text_2") == torch.float32
