"""The system's package manager: libraries that pip cannot bring.

    python -m streamasr.system portaudio        # install what is missing, or print the one command that would

It never asks for a password: it installs as root or where sudo needs none.
"""

from __future__ import annotations

import argparse
import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

# What each package manager calls a thing, after the command that installs it.
MANAGERS: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "apt-get": (
        ["apt-get", "install", "-y", "--no-install-recommends"],
        {
            "portaudio": ["libportaudio2"],
            "pulseaudio": ["pulseaudio", "pulseaudio-utils", "libasound2-plugins"],
            "chromium": ["chromium"],
        },
    ),
    "dnf": (
        ["dnf", "install", "-y"],
        {
            "portaudio": ["portaudio"],
            "pulseaudio": ["pulseaudio", "pulseaudio-utils", "alsa-plugins-pulseaudio"],
            "chromium": ["chromium"],
        },
    ),
    "pacman": (
        ["pacman", "-S", "--noconfirm", "--needed"],
        {"portaudio": ["portaudio"], "pulseaudio": ["pulseaudio", "pulseaudio-alsa"], "chromium": ["chromium"]},
    ),
    "zypper": (
        ["zypper", "--non-interactive", "install"],
        {
            "portaudio": ["libportaudio2"],
            "pulseaudio": ["pulseaudio", "pulseaudio-utils", "alsa-plugins-pulse"],
            "chromium": ["chromium"],
        },
    ),
    "apk": (
        ["apk", "add"],
        {"portaudio": ["portaudio"], "pulseaudio": ["pulseaudio", "alsa-plugins-pulse"], "chromium": ["chromium"]},
    ),
    "brew": (
        ["brew", "install"],
        {"portaudio": ["portaudio"], "pulseaudio": ["pulseaudio"], "chromium": ["chromium"]},
    ),
}
THINGS = ("portaudio", "pulseaudio", "chromium")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # any of them serves the tests


def is_present(thing: str) -> bool:
    """Whether a thing is installed."""
    if thing == "chromium":
        return any(map(shutil.which, BROWSERS))
    if thing == "pulseaudio":
        return all(shutil.which(program) for program in ("pulseaudio", "pactl", "paplay"))
    if sys.platform in ("darwin", "win32"):  # sounddevice brings PortAudio itself there
        return True
    return ctypes.util.find_library("portaudio") is not None


def manager() -> str | None:
    """The package manager of this system, if it is a known one."""
    return next((name for name in MANAGERS if shutil.which(name)), None)


def command(things: Sequence[str]) -> list[str]:
    """The command that installs the things here, without sudo; empty where no package manager is known."""
    name = manager()
    if name is None:
        return []
    start, packages = MANAGERS[name]
    return [*start, *(package for thing in things for package in packages[thing])]


def advice(things: Sequence[str]) -> str:
    """What a person has to type."""
    words = command(things)
    if not words:
        return f"install {' and '.join(things)} with your system's package manager"
    return " ".join(words if manager() == "brew" or _is_root() else ["sudo", *words])


def install(things: Sequence[str]) -> bool:
    """Install what is missing, where that is permitted; true when all of it is present afterwards."""
    missing = [thing for thing in things if not is_present(thing)]
    if missing and manager() and (start := _permitted()) is not None:
        if manager() == "apt-get":
            _run([*start, "apt-get", "update", "-q"])
        for thing in missing:  # one after the other, as one unknown package would keep the others out
            _run([*start, *command([thing])])
    return all(is_present(thing) for thing in missing)


def _permitted() -> list[str] | None:
    """What to put before the command; None where it is not permitted."""
    if _is_root() or manager() == "brew":
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _run(words: list[str]) -> None:
    """Run and show it; what it prints goes to standard error."""
    sys.stderr.write(f"+ {' '.join(words)}\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(words, check=False, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the things that are named; 1 where one is still missing."""
    parser = argparse.ArgumentParser(prog="python -m streamasr.system", description="Install system libraries.")
    parser.add_argument("things", nargs="+", choices=THINGS)
    options = parser.parse_args(arguments)
    if install(options.things):
        return 0
    missing = [thing for thing in options.things if not is_present(thing)]
    sys.stderr.write(f"{' and '.join(missing)} could not be installed. Please run:\n\n    {advice(missing)}\n\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
