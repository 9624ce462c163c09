"""The input devices that PortAudio knows, found by number, name or part of a name."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from streamasr.container import quiet
from streamasr.errors import NoInputDevice, NoPortAudio, UnknownDevice

PACKAGES = (  # package managers, and what installs PortAudio with them
    ("apt-get", "apt-get install libportaudio2"),
    ("dnf", "dnf install portaudio"),
    ("pacman", "pacman -S portaudio"),
    ("zypper", "zypper install libportaudio2"),
    ("apk", "apk add portaudio"),
)


@dataclass(frozen=True, slots=True)
class Device:
    """An input device: `channels` and `rate_hz` are its own; `host` is the sound system that offers it."""

    number: int
    name: str
    host: str
    channels: int
    rate_hz: float
    default: bool


def portaudio() -> ModuleType:
    """The sounddevice module, imported when first needed.

    Raises:
        NoPortAudio: the library is missing; the error names the command that installs it here.
    """
    try:
        with quiet():
            import sounddevice
    except (OSError, ImportError) as error:
        advice = f"Install it: {install_command()}"
        raise NoPortAudio(f"the PortAudio library cannot be loaded ({error})", "it installed", advice) from None
    module: ModuleType = sounddevice
    return module


def install_command() -> str:
    """The command that installs PortAudio on this system."""
    if sys.platform == "darwin":
        return "brew install portaudio"
    if sys.platform == "win32":
        return "pip install --force-reinstall sounddevice"
    command = next((command for manager, command in PACKAGES if shutil.which(manager)), PACKAGES[0][1])
    return command if os.geteuid() == 0 else f"sudo {command}"


def list_devices() -> tuple[Device, ...]:
    """All input devices, as PortAudio saw them when it was last initialised.

    Raises:
        NoPortAudio: the library is not installed.
    """
    library = portaudio()
    hosts = library.query_hostapis()
    found = library.query_devices()
    inputs = [number for number, each in enumerate(found) if each["max_input_channels"] > 0]
    default = library.default.device[0]
    if default not in inputs:
        default = inputs[0] if inputs else -1
    return tuple(
        Device(
            number=number,
            name=str(found[number]["name"]),
            host=str(hosts[found[number]["hostapi"]]["name"]),
            channels=int(found[number]["max_input_channels"]),
            rate_hz=float(found[number]["default_samplerate"]),
            default=number == default,
        )
        for number in inputs
    )


def find_device(wanted: int | str | None = None) -> Device:
    """The input device of that number, name or part of a name; None is the default.

    Raises:
        NoPortAudio: the library is not installed.
        NoInputDevice: there is no input device at all.
        UnknownDevice: nothing fits (the near names are listed), or several devices do.
    """
    return choose(list_devices(), wanted)


def choose(devices: Sequence[Device], wanted: int | str | None) -> Device:
    """`find_device` among the given devices. The same name offered by several sound systems is one device."""
    if not devices:
        raise NoInputDevice(
            "there is no input device",
            "a microphone",
            "Plug one in, and see that the sound settings show it.",
        )
    default = next((device for device in devices if device.default), devices[0])
    if wanted is None:
        return default
    if isinstance(wanted, int) or wanted.strip().isdecimal():
        fitting = [device for device in devices if device.number == int(wanted)]
    else:
        fitting = _named(devices, wanted.strip().casefold())
    if not fitting:
        near = ", ".join(f"{device.number} {device.name!r}" for device in _near(devices, str(wanted)))
        raise UnknownDevice(
            f"no input device is called {wanted!r}",
            f"a number, a name or a part of one, such as {near}",
            "List all: streamasr devices",
        )
    if len({device.name for device in fitting}) > 1:
        names = ", ".join(f"{device.number} {device.name!r}" for device in fitting)
        raise UnknownDevice(
            f"{wanted!r} fits {len(fitting)} input devices", f"one of {names}", "Give more of the name."
        )
    return next((device for device in fitting if device.host == default.host), fitting[0])


def _named(devices: Sequence[Device], wanted: str) -> list[Device]:
    """The devices of that name, else those whose names begin with it, else those whose names contain it."""
    if not wanted:
        return []
    names = [device.name.casefold() for device in devices]
    for fits in (str.__eq__, str.startswith, str.__contains__):
        fitting = [device for device, name in zip(devices, names, strict=True) if fits(name, wanted)]
        if fitting:
            return fitting
    return []


def _near(devices: Sequence[Device], wanted: str, most: int = 3) -> list[Device]:
    """The devices whose names, or words of them, are most like `wanted`; the first ones if none is."""

    def likeness(device: Device) -> float:
        name = device.name.casefold()
        return max(difflib.SequenceMatcher(None, wanted.casefold(), part).ratio() for part in (name, *name.split()))

    near = [device for device in devices if likeness(device) >= 0.5]
    return sorted(near or devices, key=likeness, reverse=True)[:most]
