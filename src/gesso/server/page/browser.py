"""Opens the page in the user's browser, where there is one to look at."""

import os
import sys
import threading
import webbrowser
from collections.abc import Mapping


def has_display(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether a window that opens here is seen by the user: not on a server, not through SSH."""
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def is_wanted(setting: bool, *, is_terminal: bool, display: bool) -> bool:
    """Whether a browser is to be opened: never from a script or a service, whose output nobody watches."""
    return setting and is_terminal and display


def open_page(address: str) -> None:
    """Open an address. Returns at once; a browser that does not start is no error, for the address is printed too."""
    threading.Thread(target=_open, args=(address,), name="browser", daemon=True).start()


def _open(address: str) -> None:
    try:
        webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return
