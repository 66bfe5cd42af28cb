"""Threads of which exactly one runs at a time, and stops wherever the scheduler wants it to.

Product code is written for threads, so a simulated worker's attempt is a real thread: it runs the real code
until it comes to a step (a script of the ledger, a message to the broker, a sleep), hands the baton back, and
goes on when it is chosen again, or is killed there and then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class KilledError(BaseException):
    """Raised inside of a fiber whose worker has died; no product code catches it."""


class Fiber:
    """One line of work of a worker. `wake_us`: not before this virtual moment."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self.name = name
        self.wake_us = 0
        self.is_done = False
        self.is_killed = False
        self.error: BaseException | None = None
        self._work = work
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self.is_killed:
                self._work()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 (a defect is shown by the scheduler)
            self.error = error
        finally:
            self.is_done = True
            self._back.release()

    def run(self) -> None:
        """Go on until the next pause or the end; called by the scheduler."""
        self._go.release()
        self._back.acquire()
        if self.is_done:
            self._thread.join()

    def pause(self) -> None:
        """Hand the baton back; called inside of the fiber."""
        if not self.is_killed:
            self._back.release()
            self._go.acquire()
        if self.is_killed:
            raise KilledError

    def kill(self) -> None:
        """End it where it stands; nothing that it would still do happens. Called by the scheduler."""
        self.is_killed = True
        if not self.is_done:
            self.run()
