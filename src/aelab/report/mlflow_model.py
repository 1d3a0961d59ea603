"""The trained model as MLflow loads it: this file is logged as the model's code, its weights as an artifact."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Served(PythonModel):
    """`predict` does a task of `tasks.py`, by default to reconstruct: float32 in [0, 1], shape (B, C, H, W), in.

    Its params are `task` and the fields of `tasks.Options`. MLflow checks shape, type and the params' types before;
    a param that the signature does not name never arrives here: MLflow warns in its log, and leaves it out.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights."""
        from aelab.models import checkpoint  # noqa: PLC0415 - importing torch is slow, and logging needs none of it

        self.model = checkpoint.load(Path(context.artifacts["weights"]))

    def predict(self, model_input, params: dict[str, Any] | None = None):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN201 - MLflow reads hints
        """What the task makes of the images."""
        import torch  # noqa: PLC0415 - as above

        from aelab.core.errors import UserError  # noqa: PLC0415
        from aelab.inference import tasks  # noqa: PLC0415

        told = asdict(tasks.Options()) | {"task": "reconstruct"} | (params or {})
        task = told.pop("task")
        try:
            return tasks.perform(self.model, task, torch.as_tensor(model_input), tasks.Options(**told)).numpy()
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(Served())
