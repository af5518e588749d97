"""A run's numbers and pictures as tensorboard reads them, in JOB/tensorboard; the package tensorboard is optional.

python -m engine generate "a red mug" --output.tensorboard 1 --out mug
tensorboard --logdir mug
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError
from engine.protocol import Event, Preview

if TYPE_CHECKING:
    from engine.training.run_state import StepReport

FOLDER_NAME = "tensorboard"


class TensorboardLog:
    """Writes until `close`.

    Args:
        folder: of the job.
        step: where the run goes on from; what an interrupted run wrote beyond it is hidden.
    Raises: UserError, code "setup", if the package cannot be imported.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing(str(error).splitlines()[0]) from error
        self._writer: Any = SummaryWriter(str(folder / FOLDER_NAME), purge_step=step)  # type: ignore[no-untyped-call]

    def step(self, step: int, report: StepReport, seconds_per_step: float) -> None:
        """The scalars of a step that is done."""
        scalars = {
            "loss": report.loss,
            "guidance loss": report.guidance_loss,
            "opacity of the box": report.box_opacity,
            "largest density": report.largest_density,
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.add_scalar("seconds per step", seconds_per_step, step)

    def see(self, event: Event) -> None:
        """The picture of a preview; pictures that follow the user's camera are too many, and soon gone."""
        if isinstance(event, Preview) and event.view != "camera":
            import numpy as np
            import PIL.Image

            with PIL.Image.open(event.path) as picture:
                self._writer.add_image("preview", np.asarray(picture.convert("RGB")), event.step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def check_tensorboard() -> None:
    """Raise UserError, code "setup", if the package is not there; imports nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise _missing("it is not installed")


def _missing(why: str) -> UserError:
    text = f"output.tensorboard needs the package tensorboard, which cannot be used: {why.rstrip('.')}."
    return UserError(text, "Run: python -m pip install tensorboard, or leave --output.tensorboard out.", "setup")
