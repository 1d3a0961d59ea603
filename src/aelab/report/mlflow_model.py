"""Trained model for MLflow. MLflow logs this file as the model's code, and the weights as an artifact."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Served(PythonModel):
    """Model that MLflow serves: `predict` performs a task of `tasks.py` on images, float32 (B, C, H, W) in [0, 1].

    The params of `predict` are `task`, by default "reconstruct", and the fields of `tasks.Options`. MLflow first checks
    the shape of the images and the types of the params. MLflow drops unknown params, with a warning in its log.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights."""
        from aelab.models import checkpoint  # noqa: PLC0415 - torch imports slowly; logging does not need it

        self.model = checkpoint.load(Path(context.artifacts["weights"]))

    def predict(self, model_input, params: dict[str, Any] | None = None):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN201 - MLflow reads hints
        """Perform the task on the images `model_input`, and return the result as an array."""
        import torch  # noqa: PLC0415 - torch imports slowly

        from aelab.core.errors import UserError  # noqa: PLC0415
        from aelab.inference import tasks  # noqa: PLC0415

        told = asdict(tasks.Options()) | {"task": "reconstruct"} | (params or {})
        task = told.pop("task")
        try:
            return tasks.perform(self.model, task, torch.as_tensor(model_input), tasks.Options(**told)).numpy()
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(Served())
