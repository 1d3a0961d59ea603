"""The trained model as MLflow loads it: this file is logged as the model's code, its weights as an artifact."""

from pathlib import Path

from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class Reconstructor(PythonModel):
    """`predict` reconstructs images: float32 in [0, 1], shape (B, C, H, W), in and out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights."""
        from autoencoders import checkpoint  # noqa: PLC0415 - importing torch is slow, and logging needs none of it

        self.model = checkpoint.load(Path(context.artifacts["weights"]))

    def predict(self, model_input):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN201 - MLflow reads hints
        """x′ of each image x."""
        import torch  # noqa: PLC0415 - as above

        with torch.no_grad():
            batches = torch.as_tensor(model_input, dtype=torch.float32).split(500)
            return torch.cat([self.model.reconstruct(x) for x in batches]).numpy()


set_model(Reconstructor())
