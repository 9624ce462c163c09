"""The system's package manager, without touching this system's."""

import subprocess

import pytest

from streamasr import system


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A Debian of somebody who is not root and has no sudo; every command that is run is kept."""
    ran: list[list[str]] = []
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    monkeypatch.setattr(system, "is_present", lambda thing: False)
    monkeypatch.setattr(system, "_is_root", lambda: False)

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(system.subprocess, "run", run)
    return ran


def test_without_permission_the_one_command_is_printed(
    debian: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert system.main(["portaudio"]) == 1
    assert debian == []
    error = capsys.readouterr().err
    assert "portaudio could not be installed" in error
    assert "sudo apt-get install -y --no-install-recommends libportaudio2\n" in error


def test_root_installs(debian: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_is_root", lambda: True)
    monkeypatch.setattr(system, "is_present", lambda thing: len(debian) == 4)
    assert system.main(["portaudio", "pulseaudio", "chromium"]) == 0
    assert debian[0] == ["apt-get", "update", "-q"]
    assert [words[4:] for words in debian[1:]] == [
        ["libportaudio2"],
        ["pulseaudio", "pulseaudio-utils", "libasound2-plugins"],
        ["chromium"],
    ]


def test_a_browser_by_any_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: name if name == "google-chrome" else None)
    assert system.is_present("chromium")
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    assert not system.is_present("chromium")


def test_sudo_without_a_password_installs(debian: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: name if name in ("dnf", "sudo") else None)
    system.install(["portaudio"])
    assert debian == [["sudo", "-n", "true"], ["sudo", "-n", "dnf", "install", "-y", "portaudio"]]


def test_what_is_present_is_left_alone(debian: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "is_present", lambda thing: True)
    assert system.main(["portaudio"]) == 0
    assert debian == []


def test_an_unknown_system_gets_words(debian: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    assert system.advice(["portaudio"]) == "install portaudio with your system's package manager"
