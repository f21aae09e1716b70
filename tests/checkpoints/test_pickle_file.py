"""PyTorch files end to end, through the child process: rows P1 and P5, and files of real tools."""

import argparse
import datetime
import hashlib
import os
import pickle
import random
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from foreign_files import FLOATS, call, name, number, pickled, saved, stacked, table, tensor, text, torch_zip
from gesso.checkpoints import pickle_file, sandbox
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.pickle_file import SOURCE_KEY, Limits, convert_pickle, list_pickle
from gesso.checkpoints.pickle_reader import PickleLimits
from gesso.checkpoints.safetensors_file import DTYPES

linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in sandbox._CALLS, reason="the kernel's filter is Linux's"
)


def write(folder: Path, data: bytes, file_name: str = "model.ckpt") -> Path:
    path = folder / file_name
    path.write_bytes(data)
    return path


def refused(path: Path, **limits: Any) -> ModelFileError:
    target = path.with_suffix(".safetensors")
    with pytest.raises(ModelFileError) as caught:
        convert_pickle(path, target, limits=Limits(**limits))
    assert os.listdir(path.parent) == [path.name]
    return caught.value


def same(first: Tensor, second: Tensor) -> bool:
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return first.dtype == second.dtype and first.shape == second.shape and torch.equal(*raw)


def weights() -> dict[str, Tensor]:
    """Every dtype, and every way in which a tensor can lie in its storage."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    found = {f"of {label}": torch.arange(5).to(dtype) for label, dtype in DTYPES.items()}
    return found | {
        "base": base,
        "the same": base,
        "rows": base[2:4],
        "a window": base[1:5, 2:7],
        "transposed": base.t(),
        "every other": base[::2, ::3],
        "channels last": torch.randn(3, 4, 2, 5).half().to(memory_format=torch.channels_last),
        "permuted": torch.randn(2, 3, 4).bfloat16().permute(2, 0, 1),
        "expanded": torch.ones(3).expand(2, 3),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(2)),
        "name ü": torch.ones(1),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("stack", [False, True])
def test_every_tensor_arrives_bit_by_bit(tmp_path: Path, stack: bool, protocol: int) -> None:
    tensors = weights()
    if stack:  # torch writes float8 through its bytes, which the older container does not have
        tensors = {name: tensor for name, tensor in tensors.items() if "F8" not in name}
    path = write(tmp_path, saved(tensors, stacked=stack, protocol=protocol))
    target = tmp_path / "model.safetensors"
    found = convert_pickle(path, target)
    loaded = load_file(target)
    assert set(loaded) == set(tensors) == set(found.names)
    assert [name for name in tensors if not same(loaded[name], tensors[name])] == []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.source_sha256 == digest
    assert found.target_sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    with safe_open(target, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt", SOURCE_KEY: digest}


def test_the_bytes_are_those_of_the_library_and_do_not_vary(tmp_path: Path) -> None:
    tensors = weights()
    path = write(tmp_path, saved({"state_dict": tensors}))
    for target in ("a.safetensors", "b.safetensors"):
        convert_pickle(path, tmp_path / target)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    header = (tmp_path / "a.safetensors").read_bytes()
    plain = save(
        {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    assert header[8 + int.from_bytes(header[:8], "little") :] == plain[8 + int.from_bytes(plain[:8], "little") :]


def test_a_listing_reads_no_numbers_and_writes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, saved({"state_dict": {"w": torch.ones(2, 3).half()}, "epoch": 4}))
    listing = list_pickle(path)
    assert {name: (info.dtype, info.shape) for name, info in listing.tensors.items()} == {"w": (torch.float16, (2, 3))}
    assert listing.dropped == ("epoch (int)",)
    assert os.listdir(tmp_path) == ["model.ckpt"]


# ---- what tools really write -----------------------------------------------------------------------------------------


def lightning(body: bytes) -> bytes:
    """A training checkpoint of 2022: the class of a callback as a key, numbers of NumPy, weights under state_dict."""
    callback = name("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    dtype = call("numpy.dtype", text("f8"), b"\x89", b"\x88")
    dtype += b"(" + number(3) + text("<") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    score = call("numpy.core.multiarray.scalar", dtype, call("_codecs.encode", text("\x00" * 8), text("latin1")))
    callbacks = b"}" + callback + table(best_model_score=score, dirpath=text("/x")) + b"s"
    return pickled(
        table(
            epoch=number(1),
            callbacks=callbacks,
            state_dict=call("collections.OrderedDict") + b"(" + text("w") + body + b"u",
        )
    )


def test_a_training_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, torch_zip(lightning(tensor())).build())
    found = convert_pickle(path, tmp_path / "m.safetensors")
    assert found.names == ("w",)
    assert found.dropped == ("epoch (int)", "callbacks (dict of 1)")
    assert torch.equal(load_file(tmp_path / "m.safetensors")["w"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_settings_and_numbers_of_numpy_beside_the_weights(tmp_path: Path) -> None:
    value = {
        "state_dict": OrderedDict(w=torch.ones(2)),
        "hyper_parameters": {"lr": np.float64(1e-4), "path": Path("x"), "device": torch.device("cpu")},
        "rng": np.arange(3),
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "version": torch.__version__,
        "counter": Counter([1, 1, 2]),
        "flags": defaultdict(list, a=[1]),
        "options": argparse.Namespace(a=1, kind=int),
        "when": datetime.timedelta(1),
    }
    assert convert_pickle(write(tmp_path, saved(value)), tmp_path / "m.safetensors").names == ("w",)


def test_a_textual_inversion_of_a1111(tmp_path: Path) -> None:
    """Its vectors in a plain dictionary, and in an nn.ParameterDict as the first trainers wrote it."""
    vectors = torch.randn(3, 768)
    plain = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "style", "step": 9}
    module = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": nn.ParameterDict({"*": vectors})}
    for value in (plain, module):
        convert_pickle(write(tmp_path, saved(value), "style.pt"), tmp_path / "m.safetensors")
        assert same(load_file(tmp_path / "m.safetensors")["emb_params"], vectors)


def test_an_ip_adapter_and_a_textual_inversion_of_diffusers(tmp_path: Path) -> None:
    adapter = {"image_proj": {"proj.weight": torch.ones(2)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2)}}
    found = convert_pickle(write(tmp_path, saved(adapter), "ip-adapter.bin"), tmp_path / "m.safetensors")
    assert set(found.names) == {"image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"}
    found = convert_pickle(
        write(tmp_path, saved({"<cat>": torch.ones(768)}), "learned.bin"), tmp_path / "m.safetensors"
    )
    assert found.names == ("<cat>",)


# ---- hostile files ---------------------------------------------------------------------------------------------------


class Payload:
    """Pickled by Python itself: the call that unpickling would make."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[tuple[Path, int, list[tuple[str, Any]]]]:
    """A folder, a listening port, and the events of this process: what a payload would leave behind."""
    room = tmp_path / "canary"
    room.mkdir()
    events: list[tuple[str, Any]] = []
    listening = [True]

    def hook(event: str, args: Any) -> None:
        if listening and event in {"os.system", "os.exec", "os.fork", "socket.connect", "pickle.find_class"}:
            events.append((event, args))

    sys.addaudithook(hook)  # cannot be removed; it is switched off below
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield room, server.getsockname()[1], events
        listening.clear()
        with pytest.raises(BlockingIOError):
            server.accept()
    assert os.listdir(room) == []
    assert events == []


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_no_payload_leaves_a_trace(tmp_path: Path, canary: Any, stack: bool, protocol: int) -> None:
    """Row P1. Files that would make a file, a process or a connection if any part of gesso unpickled them."""
    room, port, _ = canary
    mark = room / "was here"
    code = f"open({str(mark)!r}, 'w')"
    payloads = [
        Payload(os.system, f"touch '{mark}'"),
        Payload(subprocess.Popen, ["touch", str(mark)]),
        Payload(open, str(mark), "w"),
        Payload(os.mkdir, str(mark)),
        Payload(eval, code),
        Payload(exec, code),
        Payload(socket.create_connection, ("127.0.0.1", port)),
        Payload(pickle.loads, pickle.dumps(Payload(os.mkdir, str(mark)))),
        Payload(getattr, "text", "upper"),
        Payload(__import__, "webbrowser"),
        Payload(Path.touch, mark),
    ]
    for number_of, payload in enumerate(payloads):
        for value in (payload, {"state_dict": {"w": torch.ones(2)}, "epoch": payload}, {"w": [payload]}):
            folder = tmp_path / f"{number_of}-{id(value)}"
            folder.mkdir()
            path = write(folder, saved(value, stacked=stack, protocol=protocol))
            if value is payload and number_of < 4:  # through the child; the rest below, in this process
                assert refused(path).reason == "pickle_global"
            else:
                with pytest.raises(ModelFileError) as caught:
                    pickle_file_in_process(path)
                assert caught.value.reason == "pickle_global"


def pickle_file_in_process(path: Path) -> None:
    """The reader of the child, here: a hundred times faster than a process, and under this process's audit hook."""
    from gesso.checkpoints.torch_file import open_torch

    with open(path, "rb") as handle:
        open_torch(handle, path.stat().st_size, where="x")


MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
RUN = name("posix.system") + b"(" + text("exit 1") + b"tR"
PICKLE = pickled(table(w=tensor()))

# What is wrong -> the file, the reason.
BAD: dict[str, tuple[bytes, str]] = {
    "a plain pickle": (pickle.dumps({"a": 1}, 4), "pickle_content"),
    "a plain pickle with a payload": (pickled(RUN), "pickle_content"),
    "a magic number that is computed": (pickled(RUN + b"0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19") + MAGIC, "pickle_content"),
    "a payload behind the magic number": (MAGIC + pickled(RUN), "pickle_global"),
    "a payload as the facts": (MAGIC + pickled(number(1001)) + pickled(RUN), "pickle_global"),
    "a payload as the list of storages": (stacked(PICKLE, keys=pickled(RUN)), "pickle_global"),
    "a payload behind the end": (stacked(PICKLE) + pickled(RUN), "pickle_damaged"),
    "another version": (MAGIC + pickled(number(7)) + pickled(b"}") + PICKLE, "pickle_content"),
    "another machine": (MAGIC + pickled(number(1001)) + pickled(b"}") + PICKLE, "pickle_content"),
    "a list of other storages": (stacked(PICKLE, keys=pickled(b"](" + text("1") + b"e")), "pickle_damaged"),
    "a storage twice": (stacked(PICKLE, keys=pickled(b"](" + text("0") * 2 + b"e")), "pickle_damaged"),
    "fewer numbers": (stacked(PICKLE, data=struct.pack("<q", 3) + FLOATS), "tensor_bounds"),
    "a negative count": (stacked(PICKLE, data=struct.pack("<q", -1) + FLOATS), "tensor_bounds"),
    "numbers cut off": (stacked(PICKLE)[:-1], "truncated"),
    "a view of the oldest torch": (
        stacked(pickled(table(w=tensor(of=b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu")
                + number(4) + b"(" + text("v") + number(0) + number(4) + b"ttQ")))),
        "pickle_damaged",
    ),
    "a payload in an archive": (torch_zip(pickled(RUN)).build(), "pickle_global"),
    "no tensors": (torch_zip(pickled(b"}")).build(), "pickle_content"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_with_a_reason(tmp_path: Path, what: str) -> None:
    data, reason = BAD[what]
    with pytest.raises(ModelFileError) as caught:
        pickle_file_in_process(write(tmp_path, data))
    assert caught.value.reason == reason, caught.value.message


def test_a_stack_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = saved({"w": torch.ones(2)}, stacked=True)
    for length in range(len(data)):
        with pytest.raises(ModelFileError):
            pickle_file_in_process(write(tmp_path, data[:length]))


def test_a_damaged_archive_leaves_no_file(tmp_path: Path) -> None:
    """The checksum is known to be wrong only after the numbers were written."""
    data = bytearray(saved({"w": torch.zeros(1000)}))
    data[data.index(bytes(4000)) + 2000] = 1
    assert refused(write(tmp_path, bytes(data))).reason == "zip_checksum"


# ---- the child -------------------------------------------------------------------------------------------------------


def test_the_child_is_confined(tmp_path: Path) -> None:
    found = convert_pickle(write(tmp_path, torch_zip().build()), tmp_path / "m.safetensors")
    assert sandbox.LIMITS in found.confined
    if sys.platform == "linux" and os.uname().machine in sandbox._CALLS:
        assert sandbox.SECCOMP in found.confined


# Each must fail in a confined process; the last line proves that what is needed still works.
ATTEMPTS = """
import os, socket, sys
sys.path.append(sys.argv[1])
from gesso.checkpoints.sandbox import confine
print(*confine(memory=2**30, cpu_seconds=5, file_nbytes=1000), flush=True)
def attempt(what, function):
    try:
        function()
    except OSError as error:
        print(what, error.errno, flush=True)
    else:
        print(what, "worked", flush=True)
attempt("open", lambda: os.open("/etc/passwd", os.O_RDONLY))
attempt("create", lambda: os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT))
attempt("unlink", lambda: os.unlink(sys.argv[1] + "/gesso/__init__.py.none"))
attempt("mkdir", lambda: os.mkdir(sys.argv[2]))
attempt("list", lambda: os.listdir("/"))
attempt("socket", lambda: socket.socket())
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill(1, 0))
attempt("pipe", os.pipe)
attempt("dup", lambda: os.dup(0))
os.lseek(0, 0, 0); print("read", os.read(0, 3).decode(), flush=True)
os._exit(0)
"""


@linux
def test_a_confined_process_can_only_read_write_and_end(tmp_path: Path) -> None:
    path = write(tmp_path, b"abc")
    root = str(Path(sandbox.__file__).parents[2])
    with open(path, "rb") as source:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", "-c", ATTEMPTS, root, str(tmp_path / "made")],
            stdin=source,
            capture_output=True,
            text=True,
            check=True,
        )
    lines = done.stdout.splitlines()
    assert lines[0] == "limits seccomp"
    assert lines[-1] == "read abc"
    assert [line for line in lines[1:-1] if not line.endswith(" 1")] == []  # EPERM
    assert len(lines) == 13
    assert os.listdir(tmp_path) == ["model.ckpt"]


def verdict(program: bytes, arch: int, number: int) -> int:
    """What the kernel's filter answers to a call: the three operations of the program, as bpf(4) defines them."""
    steps = list(struct.iter_unpack("HBBI", program))
    at, value = 0, 0
    while True:
        code, yes, no, operand = steps[at]
        if code == 0x06:
            return operand
        if code == 0x20:
            value = {0: number, 4: arch}[operand]
            at += 1
        else:
            assert code == 0x15
            at += 1 + (yes if value == operand else no)


@pytest.mark.parametrize("machine", sandbox._CALLS)
def test_the_filter_allows_its_list_and_nothing_else(machine: str) -> None:
    arch, allowed = sandbox._CALLS[machine]
    program = b"".join(sandbox._program(arch, allowed))
    for number_of in [*range(600), 0x40000000, 0x40000001, 2**32 - 1]:  # from 0x40000000 on: x32, a second numbering
        assert verdict(program, arch, number_of) == (0x7FFF0000 if number_of in allowed else 0x00050001)
    assert verdict(program, 0x40000003, allowed[0]) == 0x80000000  # 32-bit calls on a 64-bit kernel


def run_child(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> ModelFileError:
    """The parent with another child than ours: one that a stranger has taken over."""
    path = write(tmp_path, torch_zip().build())
    original = subprocess.Popen

    def start(command: list[str], **kwargs: Any) -> Any:
        return original([sys.executable, "-I", "-S", "-c", code], **kwargs)

    monkeypatch.setattr(subprocess, "Popen", start)
    return refused(path, **limits)


@pytest.mark.parametrize(
    ("code", "reason", "word"),
    [
        ("import os; os.kill(os.getpid(), 9)", "sandbox", "signal 9"),
        ("raise SystemExit(3)", "sandbox", "code 3"),
        ("pass", "sandbox", "code 0"),
        ("import sys; sys.stderr.write('nonsense')", "sandbox", "code 0"),
        ("import sys; sys.stderr.write('[' * 100000)", "sandbox", "code 0"),
        ("import sys; sys.stderr.write('{\"reason\": \"fine\", \"message\": \"\"}')", "sandbox", "code 0"),
        ("import sys; sys.stderr.write('{\"dropped\": [], \"confined\": []}')", "sandbox", "broken file"),
        ("import sys; print('x'); sys.stderr.write('{\"dropped\": [], \"confined\": []}')", "sandbox", "broken file"),
        ("import time; time.sleep(60)", "pickle_limit", "seconds"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "pickle_limit", "CPU"),
    ],
)  # fmt: skip
def test_a_child_that_misbehaves_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str, word: str
) -> None:
    if "SIGXCPU" in code and not hasattr(signal, "SIGXCPU"):
        pytest.skip("this system has no such signal")
    wall = 0.5 if "sleep" in code else 60
    error = run_child(code, tmp_path, monkeypatch, wall_seconds=wall)
    assert error.reason == reason
    assert word in error.message


def test_limits_reach_the_child(tmp_path: Path) -> None:
    path = write(tmp_path, saved({f"t{i}": torch.ones(2) for i in range(5)}))
    assert refused(path, pickle=PickleLimits(tensors=4)).reason == "pickle_limit"


def test_the_limits_are_those_that_we_promise() -> None:
    promised = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
    limits = Limits()
    assert f"{limits.memory / 2**30:g} GiB of memory, {limits.cpu_seconds} seconds of processor\n" in promised
    assert "an hour in all" in promised
    assert limits.wall_seconds == 3600


@pytest.mark.slow
@linux
def test_a_child_without_memory_says_so(tmp_path: Path) -> None:
    """A scattered tensor of 32 MB is put into order in three times as much, beside what the interpreter takes."""
    path = write(tmp_path, saved({"w": torch.zeros(2048, 2048, dtype=torch.float64).t()}))
    assert refused(path, memory=100 * 2**20).reason == "pickle_limit"
    convert_pickle(path, tmp_path / "m.safetensors")


def test_no_interpreter_no_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert refused(write(tmp_path, torch_zip().build())).reason == "sandbox"


def test_a_file_that_changes_under_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, torch_zip().build())
    run = pickle_file._run

    def change(*args: Any, **kwargs: Any) -> Any:
        report = run(*args, **kwargs)
        path.write_bytes(torch_zip(lightning(tensor())).build())
        return report

    monkeypatch.setattr(pickle_file, "_run", change)
    assert refused(path).reason == "changed"


def test_other_things_than_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(ModelFileError) as caught:
            convert_pickle(path, tmp_path / "m.safetensors")
        assert caught.value.reason in {"missing", "unreadable"}


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path, torch_zip().build())
    with pytest.raises(ModelFileError) as caught:
        convert_pickle(path, tmp_path / "no" / "such" / "folder.safetensors")
    assert caught.value.reason == "unwritable"


def test_the_child_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1]); import gesso.checkpoints.torch_child; "
        "print(*sorted({n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)))"
    )
    root = str(Path(sandbox.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, root], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["__main__", "gesso"]


def test_a_hundred_files_of_noise(tmp_path: Path) -> None:
    noise = random.Random(0)
    for _ in range(100):
        data = MAGIC + noise.randbytes(200)
        with pytest.raises(ModelFileError):
            pickle_file_in_process(write(tmp_path, data))


def test_a_machine_or_a_system_that_cannot_confine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_CALLS", {})
    monkeypatch.setattr(sandbox, "resource", None)
    assert sandbox._filter_calls() is False
    assert sandbox._limit(memory=1, cpu_seconds=1, file_nbytes=1) is False
    assert sandbox.confine(memory=1, cpu_seconds=1, file_nbytes=1) == ()
