"""`--on-final COMMAND`: a program of the user's for each caption, which it reads on its standard input."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess

from streamasr.courier import Courier
from streamasr.errors import ConfigError, OutputError
from streamasr.events import Final

LONGEST_S = 10.0  # that a command may take for one caption


class Program(Courier):
    """Starts the command once for each final, one at a time; the final's line is its standard input.

    The command is split into words as a shell would, and no shell ever sees it or the text. What it prints is left out.

    Args:
        command: the program and its arguments.
        longest_s: a command that takes longer is ended, and that is told.

    Raises:
        ConfigError: no such program, or quotes that do not end.
    """

    def __init__(self, command: str, longest_s: float = LONGEST_S) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--on-final {command!r} cannot be split ({error})", "quotes that end") from None
        if not self._words or not shutil.which(self._words[0]):
            got = f"--on-final: there is no program {self._words[0] if self._words else ''!r}"
            raise ConfigError(got, "a program and its arguments", "A line of shell needs one: sh -c 'LINE'.")
        self._longest_s = longest_s
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"the command {self._words[0]!r}")

    def arrive(self) -> None:
        """There is nothing to make ready."""

    def leave(self) -> None:
        """There is nothing to end."""

    def deliver(self, final: Final) -> None:
        """See `Courier.deliver`."""
        try:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us
            )
        except OSError as error:
            raise OutputError(f"{self.name} does not start ({error.strerror})") from None
        try:
            self._process.communicate(f"{final.line}\n".encode(), self._longest_s)
        except subprocess.TimeoutExpired:
            self.abandon()
            self._process.communicate()
            raise OutputError(f"{self.name} took longer than {self._longest_s:g} s and was ended") from None
        except BrokenPipeError:  # it did not want to read
            self._process.wait()
        if self._process.returncode:
            raise OutputError(f"{self.name} failed (status {self._process.returncode})")

    def abandon(self) -> None:
        """Kill the command that runs, and what it started."""
        process = self._process
        if process and process.poll() is None:
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
