"""What ComfyUI's socket says: messages of JSON, and pictures in frames of bytes."""

import json
import struct
import time
from collections.abc import Mapping
from typing import Any

# Kinds of frames: 4 bytes, big-endian, at their beginning.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
_FORMATS = {"image/jpeg": 1, "image/png": 2}


def features(max_upload: int) -> dict[str, Any]:
    """What the server can.  max_upload: bytes of a picture"""
    return {"supports_preview_metadata": True, "max_upload_size": max_upload}


def message(type: str, **data: Any) -> str:
    """A message of JSON."""
    return json.dumps({"type": type, "data": data}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def status(remaining: int, sid: str | None = None) -> str:
    """How many prompts are not done yet.  sid: of a socket that was just opened"""
    more = {} if sid is None else {"sid": sid}
    return message("status", status={"exec_info": {"queue_remaining": remaining}}, **more)


def timed(type: str, data: Mapping[str, Any]) -> str:
    """A message that says when."""
    return message(type, **data, timestamp=int(time.time() * 1000))


def picture_frame(content_type: str, data: bytes) -> bytes:
    """A picture: kind 1, then its format."""
    return struct.pack(">II", PREVIEW, _FORMATS.get(content_type, 2)) + data


def preview_frame(content_type: str, data: bytes, node: str, prompt: str) -> bytes:
    """A preview with what it is of: kind 4, then the length of its metadata."""
    about = json.dumps({**node_ids(node), "prompt_id": prompt, "image_type": content_type}).encode()
    return struct.pack(">II", PREVIEW_WITH_METADATA, len(about)) + about + data


def node_ids(node: str) -> dict[str, Any]:
    """A node as messages name it; no node here is inside another."""
    return {"node_id": node, "display_node_id": node, "parent_node_id": None, "real_node_id": node}


def progress_state(prompt: str, states: Mapping[str, tuple[float, float, str]]) -> str:
    """How far each node is.  states: node -> value, greatest value, "pending", "running" or "finished" """
    nodes = {
        node: {"value": value, "max": most, "state": state, "prompt_id": prompt, **node_ids(node)}
        for node, (value, most, state) in states.items()
    }
    return message("progress_state", prompt_id=prompt, nodes=nodes)
