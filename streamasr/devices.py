"""The input devices that PortAudio knows, found by number, name or part of a name."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from streamasr import system
from streamasr.container import quiet
from streamasr.errors import NoInputDevice, NoPortAudio, UnknownDevice

SYSTEM = "system"  # what the machine plays, instead of a microphone
LOOPBACKS = ("monitor of", "loopback", "blackhole", "stereo mix", "what u hear", "cable output", "soundflower")
PULSE, MONITOR = "pulse", "@DEFAULT_MONITOR@"  # ALSA's way to PulseAudio and PipeWire; what the default output plays


@dataclass(frozen=True, slots=True)
class Device:
    """An input device: `channels` and `rate_hz` are its own; `host` is the sound system that offers it.

    `target` is the PulseAudio source that it is to be led to, where that is not the default one.
    """

    number: int
    name: str
    host: str
    channels: int
    rate_hz: float
    default: bool
    target: str = ""


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
    if sys.platform == "win32":
        return "pip install --force-reinstall sounddevice"
    return system.advice(["portaudio"])


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


def find_loopback() -> Device:
    """The device that hears what the machine plays.

    Raises:
        NoPortAudio: the library is not installed.
        UnknownDevice: there is none; the error says how to get one here.
    """
    return choose_loopback(list_devices())


def choose_loopback(devices: Sequence[Device]) -> Device:
    """`find_loopback` among the given devices: one that is called so, or else PulseAudio's monitor."""
    for word in LOOPBACKS:
        for device in devices:
            if word in device.name.casefold():
                return device
    for device in devices:
        if device.name == PULSE:
            return dataclasses.replace(device, name="the system's sound", target=MONITOR, default=False)
    hints = {
        "darwin": "Install BlackHole and choose it as output.",
        "win32": "Enable Stereo Mix in the sound settings.",
    }
    raise UnknownDevice(
        "no device hears what this machine plays",
        "a monitor or loopback device",
        hints.get(sys.platform, "Install ALSA's PulseAudio plugin, or name the device: --source device:NAME"),
    )


@contextlib.contextmanager
def led_to(target: str) -> Iterator[None]:
    """What is opened meanwhile through ALSA's PulseAudio plugin hears this source; "" leaves all as it is."""
    if not target:
        yield
        return
    before = os.environ.get("PULSE_SOURCE")
    os.environ["PULSE_SOURCE"] = target
    try:
        yield
    finally:
        if before is None:
            del os.environ["PULSE_SOURCE"]
        else:
            os.environ["PULSE_SOURCE"] = before


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
