"""The child process that reads a PyTorch file from standard input and writes safetensors to standard output.

Started by pickle_file.py as `python -I -S`, so that it has the standard library and this package's readers and nothing
else. It confines itself before it reads the first byte. Its report is one line of JSON on standard error.
"""

import json
import os
import sys
from typing import Any, BinaryIO

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.pickle_reader import PickleLimits
from gesso.checkpoints.sandbox import confine
from gesso.checkpoints.torch_file import header_of, open_torch, write_as_safetensors


def main(task: str) -> None:
    """task: JSON of what pickle_file.py asks for. Ends the process."""
    request = json.loads(task)
    with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as target:
        # Once now, while files can still be opened: what the work itself might import at its first use.
        "\xe9".encode("latin-1").decode("latin-1").encode("utf-8", "surrogatepass")
        confined = confine(
            memory=request["memory"], cpu_seconds=request["cpu_seconds"], file_nbytes=request["file_nbytes"]
        )
        try:
            report = {"confined": confined, **_work(request, source, target)}
            target.flush()
        except ModelFileError as error:
            report = {"reason": error.reason, "message": error.detail}
        except MemoryError:
            report = {"reason": "pickle_limit", "message": f"takes more than {request['memory']:,} bytes of memory"}
        except OSError as error:
            report = {"reason": "unwritable", "message": f"the converted file cannot be written: {error.strerror}"}
        except Exception as error:
            report = {"reason": "sandbox", "message": f"the reader failed with {type(error).__name__}"}
        os.write(2, json.dumps(report).encode() + b"\n")
        os._exit(0)  # no clean-up that would need rights given away


def _work(request: dict[str, Any], source: BinaryIO, target: BinaryIO) -> dict[str, Any]:
    opened = open_torch(source, request["nbytes"], where="", limits=PickleLimits(**request["pickle"]))
    if request["header_only"]:
        target.write(header_of(opened, request["metadata"], where="")[0])
    else:
        write_as_safetensors(opened, source, target, request["metadata"], where="")
    return {"dropped": opened.dropped[:200]}


if __name__ == "__main__":
    main(sys.argv[1])
