"""`gesso`: finds the command, runs it, and turns whatever happens into one line and an exit code.

Exit codes: 0 done; 1 the work failed, or replay found another picture; 2 wrong input, in one line on stderr; 130
stopped with Ctrl-C; 143 stopped with SIGTERM. Nothing but the table of commands is known here before one is chosen, so
that `gesso --help` needs neither torch nor any command's module. What takes time to import is imported in `run`, where
Ctrl-C is an exit code.
"""

import _thread
import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from gesso.cli.commands import NAMES
from gesso.terminal.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED
from gesso.terminal.streams import STDOUT, take_over

COMPLETE = "_GESSO_COMPLETE"  # in the environment: a shell asks for words


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    codes: list[int] = []
    interrupts = Interrupts(codes)

    def leave() -> None:
        if codes:
            os._exit(_flushed(codes[0]))

    # The first to be registered is called last, when threads have ended and all libraries have cleaned up. Taking
    # Python itself down after torch takes another half second, in which Ctrl-C would end the program by the signal.
    atexit.register(leave)
    try:
        interrupts.install()
        # Idle OpenMP threads sleep instead of spinning. Where other programs use the cores too, spinning threads keep
        # those that have work from running: two threads on two busy cores took 20 to 80 s for a picture that takes 2 s
        # like this.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Importing torch makes a million objects that stay. With its default threshold, 700, the garbage collector goes
        # through them again and again: a twentieth of the time of a short command.
        gc.set_threshold(10_000)
        code = run(sys.argv[1:], interrupts)
    except KeyboardInterrupt:  # while the last was put away
        code = _interrupted(interrupts)
    interrupts.end_at_once()
    code = _flushed(code)
    codes.append(code)
    if code == EXIT_INTERRUPTED:
        os._exit(code)  # where an interrupt met Python's own `exec`, `sys.exit` ends by the signal, without a code
    sys.exit(code)


class Interrupts:
    """What Ctrl-C does: it raises KeyboardInterrupt, as ever; the second one ends the program at once.

    One that comes when the command has ended changes no exit code: what it was to stop is done.

    Libraries that are being imported turn it into errors of their own, swallow it or abort, so it waits until an import
    is done. In a callback Python prints a traceback and goes on, so it is raised again a moment later.
    """

    def __init__(self, codes: Sequence[int] = ()) -> None:
        """codes: that of the command, once it has ended and all that it printed has gone out"""
        self.happened = False
        self._codes = codes
        self._again = False  # the next call of the handler repeats the first Ctrl-C and is no second one
        self._ended = False  # the command has ended, perhaps for a Ctrl-C, of which a repetition may be under way

    def install(self) -> None:
        """Take over from Python; where Ctrl-C is ignored, as in a shell's background, it stays so."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._stop)
            sys.unraisablehook = self._unraisable

    def end_at_once(self) -> None:
        """From now on nothing is left to clean up: no KeyboardInterrupt comes any more."""
        self._ended = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        repeated, self._again = self._again, False
        if self._ended:
            if self._codes and not repeated:  # Python is being taken down
                os._exit(self._codes[0])
            return
        if self.happened and not repeated:
            if sys.stderr is not None and sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the progress bar hides the cursor
                sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        self.happened = True
        if _importing(frame):
            _thread.start_new_thread(self._repeat, ())
            return
        raise KeyboardInterrupt

    def _unraisable(self, lost: Any) -> None:
        if self.happened and issubclass(lost.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(self._repeat, ())
        else:
            sys.__unraisablehook__(lost)

    def _repeat(self) -> None:
        time.sleep(0.01)
        self._again = True
        _thread.interrupt_main()


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way below a frame."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def run(argv: Sequence[str], interrupts: Interrupts | None = None) -> int:
    """Run one command line and return its exit code. Prints; installs a handler for SIGTERM while it runs."""
    previous = _on_sigterm(_terminate)
    try:
        return _run(argv)
    except KeyboardInterrupt:  # what is finished stays, what is not was never under its name
        return _interrupted(interrupts)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except BrokenPipeError:
        return EXIT_FAILED  # whoever read the results, such as `head`, has enough
    except Exception as error:
        if interrupts is not None and interrupts.happened:
            return _interrupted(interrupts)
        if "--debug" in argv or os.environ.get("GESSO_DEBUG", "") not in ("", "0"):
            raise
        from gesso.terminal.explaining import explain

        return explain(error)
    finally:
        _on_sigterm(previous)


def _run(argv: Sequence[str]) -> int:
    take_over()
    if COMPLETE in os.environ:
        from gesso.cli.completion import answer

        return answer(os.environ[COMPLETE], argv)
    if sys.getfilesystemencoding() != "utf-8":
        from gesso.terminal.explaining import check_locale

        check_locale(argv)
    argv = [word for word in argv if word != "--debug"]  # it may stand before or after the command
    argv = argv[1:] if argv[:1] == ["--"] else argv
    from gesso.terminal.first_word import GREETING, understood

    if not argv:
        print(GREETING)
        return 0
    if argv[0] not in NAMES and not argv[0].startswith("-"):
        argv = understood(argv, NAMES)
    if argv[0] == "generate" and "--help" not in argv:
        from gesso.terminal.torch_import import load_beside

        load_beside()
    if argv[0] in ("--install-completion", "--show-completion"):
        from gesso.cli.completion import set_up

        return set_up(install=argv[0] == "--install-completion", shell=argv[1] if len(argv) > 1 else None)
    from gesso.cli.app import run_app
    from gesso.terminal.logs import logged_to_stderr

    with logged_to_stderr():
        return run_app(argv, _chosen(argv))


def _chosen(argv: Sequence[str]) -> str | None:
    """The first word that is no option; the options before a command take no values."""
    return next((word for word in argv if not word.startswith("-")), None)


def _interrupted(interrupts: Interrupts | None) -> int:
    if interrupts is not None:
        interrupts.end_at_once()  # one that comes while the line is written would have it written twice
    with suppress(OSError):
        print("interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _flushed(code: int) -> int:
    """The exit code, after all that was printed has gone out; a full disk behind a stream is told, not ignored."""
    for number, stream in ((2, sys.stderr), (1, sys.stdout)):
        if stream is None:  # closed before the program began
            continue
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if code == 0 and not isinstance(error, BrokenPipeError):
                with suppress(OSError):
                    print(f"error: {STDOUT}: {getattr(error, 'strerror', error)}", file=sys.stderr, flush=True)
            code = code or EXIT_FAILED
            with suppress(OSError), open(os.devnull, "wb") as nowhere:  # what is left must not fail again at the end
                os.dup2(nowhere.fileno(), number)
    return code


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _on_sigterm(handler: Callable[[int, FrameType | None], Any] | int | None) -> Any:
    """Set what SIGTERM does and return what it did; nothing where the program is not in its main thread."""
    try:
        return signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)
    except ValueError:
        return None
