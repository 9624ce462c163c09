"""What a run tells: JSON lines, TensorBoard, and a bar with the time left on a terminal (plain lines elsewhere)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FILE = "log.jsonl"


class Log:
    """One run's. With `quiet` (all processes but the first) it says and writes nothing."""

    def __init__(self, folder: Path, steps: int, *, quiet: bool = False, tensorboard: bool = False) -> None:
        self._path, self._steps, self._quiet = folder / FILE, steps, quiet
        self._writer: Any = None
        if tensorboard and not quiet:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._console = Console(quiet=quiet, soft_wrap=True, highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            console=self._console,
            speed_estimate_period=600,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task(folder.name, total=steps, loss=float("nan"))
        self._began: tuple[float, int] | None = None

    def start(self, step: int) -> None:
        """Show the bar, at `step`."""
        self._began = time.monotonic(), step
        self._progress.update(self._task, completed=step)
        self._progress.start()

    def advance(self, step: int, loss: float) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step, loss=loss)

    def left_s(self, step: int) -> float:
        """Seconds until the last step, at the pace since `start`."""
        began_s, first = self._began or (time.monotonic(), step)
        return (time.monotonic() - began_s) / max(1, step - first) * (self._steps - step)

    def write(self, **values: Any) -> None:
        """One line of figures. `step` is among them; `dev` names the set that they were measured on."""
        if self._quiet:
            return
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        if self._writer is not None:
            prefix = f"{values['dev']}/" if "dev" in values else "train/"
            for key, value in values.items():
                if key != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(prefix + key, value, values["step"])
        self.say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()))

    def say(self, text: str) -> None:
        """A line on the screen alone."""
        self._console.print(text)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar and finish the files."""
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """A run's lines in the order of their steps; where a resumed run repeated steps, the last of each."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = {(line["step"], line.get("dev", ""), line.get("reason", "")): line for line in lines}
    return [kept[key] for key in sorted(kept)]
