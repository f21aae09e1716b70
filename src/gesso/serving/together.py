"""What several threads ask for at the same time, done at once."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


class Together(Generic[A, R]):
    """Carries out the wishes of several threads in one go: while one is at work, those that come wait and are the next.

    carry_out  does what a list of wishes asks. -> an answer for each, or the error that its thread shall raise
    most       wishes at a time
    """

    def __init__(self, carry_out: Callable[[Sequence[A]], Sequence[R | Exception]], most: int = 64) -> None:
        self._carry_out, self._most = carry_out, most
        self._turn, self._lock = Lock(), Lock()
        self._waiting: list[_Wish[A, R]] = []

    def __call__(self, asked: A) -> R:
        """The answer, when it is there. Raises its error, or that of all."""
        wish: _Wish[A, R] = _Wish(asked)
        with self._lock:
            self._waiting.append(wish)
        with self._turn:
            while (
                wish.answer is None
            ):  # nobody has done it yet; with those that came before and with it, this thread does
                self._work()
        assert wish.answer is not None
        if isinstance(wish.answer[0], Exception):
            raise wish.answer[0]
        return wish.answer[0]

    def _work(self) -> None:
        with self._lock:
            now, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            answers = self._carry_out([wish.asked for wish in now])
            for wish, answer in zip(now, answers, strict=True):
                wish.answer = (answer,)
        except BaseException as error:
            for wish in now:
                wish.answer = (error if isinstance(error, Exception) else RuntimeError("interrupted"),)
            if not isinstance(error, Exception):  # Ctrl-C: for this thread
                raise


class _Wish(Generic[A, R]):
    def __init__(self, asked: A) -> None:
        self.asked = asked
        self.answer: tuple[R | Exception] | None = None
