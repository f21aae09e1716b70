"""Checks that need torch, in a process of their own: python -m gesso.studio.machine prints a JSON line per check.

A torch that is damaged, hangs or ends the process with a signal is then one failed check of the caller.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.studio.check import Check, guarded

if TYPE_CHECKING:
    import torch

STEPS = 2
_LONG = 0.25  # seconds, from which one try must do


def checks() -> Iterator[Check]:
    """torch, the devices, the speed of dtypes, the memory, and a picture."""
    begin = time.monotonic()
    found = list(guarded("versions", "torch", lambda: _torch(begin)))
    yield from found
    if any(one.status == "failed" for one in found):
        return
    for name, look in (("devices", _devices), ("speed", _speed), ("memory", _memory)):
        yield from guarded("machine", name, look)
    yield from guarded("drawing", "built-in model", _drawing)


def _torch(begin: float) -> Check:
    import torch

    seconds = time.monotonic() - begin
    total = float(torch.ones(8).sum())
    if total != 8:
        raise RuntimeError(f"the sum of eight ones is {total}: this torch computes wrongly")
    text = f"{torch.__version__}, imported in {seconds:.1f} s"
    return Check(
        section="versions", name="torch", text=text, data={"version": torch.__version__, "seconds": round(seconds, 2)}
    )


def _devices() -> Iterator[Check]:
    import torch

    from gesso.runtime.precision import choose_device, describe_device, usable_threads
    from gesso.studio.studio import use_threads

    usable, cores = usable_threads(), os.cpu_count() or 1
    use_threads()
    threads = torch.get_num_threads()
    data = {"device": "cpu", "cores": cores, "usable": usable, "threads": threads}
    plural = "" if threads == 1 else "s"
    text = f"{describe_device(torch.device('cpu'))}, {usable} of {cores} cores usable, {threads} thread{plural}"
    yield Check(section="machine", name="CPU", text=text, data=data)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        text = f"{about.name}, {_gib(about.total_memory)}, compute capability {about.major}.{about.minor}"
        data = {"device": f"cuda:{index}", "name": about.name, "bytes": about.total_memory}
        yield Check(section="machine", name=f"cuda:{index}", text=text, data=data)
    if not count:
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        why = f"built for {built}, but no such device or driver is here" if built else "this torch is built without it"
        advice = "" if built else "For an NVIDIA GPU, install a CUDA build of torch: https://pytorch.org/get-started"
        yield Check(section="machine", name="CUDA", text=f"none ({why})", advice=advice, data={"cuda": built})
    with suppress(AttributeError):
        if torch.backends.mps.is_available():
            text = "available; gesso takes it with --device mps"
            yield Check(section="machine", name="MPS", text=text, data={"device": "mps"})
    device = choose_device("auto")
    yield Check(section="machine", name="device", text=f"gesso takes {device}", data={"device": str(device)})


def _speed() -> Check:
    """A matrix product and a convolution in each dtype, against float32, and what follows for full-size models."""

    from gesso.runtime.engine import GAIN
    from gesso.runtime.precision import DTYPES, choose_device, choose_precision
    from gesso.runtime.speed import bfloat16_gain
    from gesso.studio.home import speeds_file

    device = choose_device("auto")
    rates: dict[str, float | None] = {}
    for name, dtype in DTYPES.items():
        try:
            rates[name] = _rate(device, dtype)
        except Exception:  # not every dtype works on every device
            rates[name] = None
    base = rates["float32"]
    shares = {name: rate / base if rate and base else None for name, rate in rates.items()}
    words = ", ".join(f"{name} {_times(share)}" for name, share in shares.items())
    chosen = large = choose_precision("auto", device).name
    data: dict[str, object] = {"device": str(device), "relative": shares, "dtype": chosen}
    takes = chosen
    if device.type == "cpu":
        gain = bfloat16_gain(speeds_file())
        large = "bfloat16" if gain >= GAIN else chosen
        takes = f"{chosen} for small models, {large} for full-size ones, where bfloat16 is {gain:.2g} x"
        data |= {"full_size": {"bfloat16": gain, "dtype": large, "file": str(speeds_file())}}
    return Check(
        section="machine",
        name="speed",
        status="ok" if rates[chosen] and rates[large] else "failed",
        text=f"{words} (matrix product and convolution); gesso takes {takes}",
        data=data,
    )


def _times(share: float | None) -> str:
    return "does not work" if share is None else f"{share:.2g} x"


def _rate(device: "torch.device", dtype: "torch.dtype") -> float:
    """Runs a second: the best of a few, of which the first only warms up."""
    import torch

    side, channels = (1024, 256) if device.type != "cpu" else (256, 64)
    a = torch.randn(side, side).to(device, dtype)
    x, w = torch.randn(1, channels, 32, 32).to(device, dtype), torch.randn(channels, channels, 3, 3).to(device, dtype)

    def once() -> float:
        start = time.perf_counter()
        y = a @ a
        z = torch.nn.functional.conv2d(x, w, padding=1)
        if not bool(torch.isfinite(y[0, 0].float() + z[0, 0, 0, 0].float())):  # waits for the device, too
            raise RuntimeError("NaN or infinity")
        return time.perf_counter() - start

    best = once()
    if best < _LONG:
        best = min(once() for _ in range(5))
    return 1 / max(best, 1e-9)


def _memory() -> Iterator[Check]:
    import torch

    from gesso.runtime.precision import memory_free

    cpu = torch.device("cpu")
    try:
        free: int | None = memory_free(cpu)
    except GessoError:
        free = None
    total: int | None = None
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    shown = [f"{_gib(free)} usable" if free is not None else "", f"{_gib(total)} in all" if total is not None else ""]
    text = ", ".join(filter(None, shown)) or "the system does not say"
    yield Check(section="machine", name="memory", text=text, data={"free": free, "total": total})
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free_there, all_there = torch.cuda.mem_get_info(index)
        text = f"{_gib(free_there)} free, {_gib(all_there)} in all"
        data = {"free": free_there, "total": all_there}
        yield Check(section="machine", name=f"memory of cuda:{index}", text=text, data=data)


def _drawing() -> Check:
    """A picture of the built-in model, from its weights to a PNG."""
    from gesso.request.request import TextToImageRequest
    from gesso.studio.studio import DEFAULT_MODEL, Studio

    begin = time.monotonic()
    pipeline = Studio(offline=True).open(DEFAULT_MODEL)
    loaded = time.monotonic()
    (picture,) = pipeline(TextToImageRequest(prompt="a red car", seed=1, num_steps=STEPS))
    done = time.monotonic()
    low, high = picture.image.convert("L").getextrema()
    if low == high:
        raise RuntimeError("the picture has one colour alone: something computes wrongly here")
    picture.to_png()
    text = f"draws {STEPS} steps in {done - loaded:.1f} s, loaded in {loaded - begin:.1f} s"
    data = {"model": DEFAULT_MODEL, "steps": STEPS, "seconds": round(done - loaded, 3)}
    return Check(section="drawing", name="built-in model", text=text, data=data)


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB"


if __name__ == "__main__":
    for one in checks():
        print(json.dumps(one.to_dict()), flush=True)
    sys.stdout.flush()
    os._exit(0)  # the results are out; a library that crashes while it is torn down changes nothing about them
