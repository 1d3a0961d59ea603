"""(b) Speed of the same networks in our training loop, in bare training steps, and in the library Pythae 0.1.2.

The three measurements alternate, with one batch size and random images. `benchmarks.loop` explains bare steps. Pythae
has a process of its own with torch's default settings, because `devices.prepare` changes settings of a whole process.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aelab.core import tensors
from aelab.models.base import Batch, Learner, Losses
from aelab.models.prior import kl_to_standard_normal, reparameterise
from aelab.quantizers.codebook import Codebook
from benchmarks.loop import IMAGE, bare_steps, loop_steps, noise
from benchmarks.measure import Table, Value, cores, quiet, ratio, take_turns

MODELS: dict[str, Any] = {}  # Pythae's models by name, which Pythae's process keeps for its next measurement
BATCH = 64  # Pythae's default
TURNS = 5  # repetitions of each measurement
SECONDS = 3.0  # approximate duration of a measurement


class PeerVAE(Learner):
    """Pythae's encoder and decoder in our loop, with Pythae's loss: half the squared error plus the KL divergence."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder

    def loss(self, batch: Batch) -> Losses:
        """Return the loss that Pythae's `VAE.loss_function` computes."""
        encoded = self.encoder(batch.inputs)
        mean, log_variance = encoded.embedding, encoded.log_covariance
        output = self.decoder(reparameterise(mean, log_variance, batch.generator)).reconstruction
        error = 0.5 * (output - batch.targets).square().flatten(1).sum(1)
        return {"loss": (error + kl_to_standard_normal(mean, log_variance)).mean()}


class PeerVQVAE(Learner):
    """Pythae's encoder and decoder around our codebook, with Pythae's loss."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.codebook = Codebook(codes=model.model_config.num_embeddings, dimensions=model.model_config.embedding_dim)

    def loss(self, batch: Batch) -> Losses:
        """Return the loss of Pythae's `VQVAE.loss_function`, but with quantisation losses summed over each image."""
        quantized = self.codebook(self.encoder(batch.inputs).embedding, batch.generator)
        output = self.decoder(quantized.z_q).reconstruction
        error = F.mse_loss(output, batch.targets, reduction="none").flatten(1).sum(1)
        return {"loss": error.mean() + quantized.codebook_loss + 0.25 * quantized.commitment_loss}


def networks() -> dict[str, tuple[Callable[[], Any], type[Learner]]]:
    """Return Pythae's models by name, each with the class that trains its networks in our loop."""
    warnings.filterwarnings("ignore", module="pythae")
    from pythae import models  # noqa: PLC0415 - most benchmarks run without Pythae
    from pythae.models.nn.benchmarks import mnist as nets  # noqa: PLC0415

    vae = models.VAEConfig(input_dim=IMAGE, latent_dim=16)
    vq = models.VQVAEConfig(input_dim=IMAGE, latent_dim=16)
    return {
        "VAE, its default MLP": (lambda: models.VAE(vae), PeerVAE),
        "VAE, its ResNet for MNIST": (
            lambda: models.VAE(vae, nets.Encoder_ResNet_VAE_MNIST(vae), nets.Decoder_ResNet_AE_MNIST(vae)), PeerVAE),
        "VAE, its convolutions for MNIST": (
            lambda: models.VAE(vae, nets.Encoder_Conv_VAE_MNIST(vae), nets.Decoder_Conv_AE_MNIST(vae)), PeerVAE),
        "VQ-VAE, its ResNet for MNIST": (
            lambda: models.VQVAE(vq, nets.Encoder_ResNet_VQVAE_MNIST(vq), nets.Decoder_ResNet_VQVAE_MNIST(vq)),
            PeerVQVAE),
    }  # fmt: skip


def trainer(model: Any, images: Tensor, device: str = "cpu") -> Any:
    """Return Pythae's trainer for `model`, with the default configuration and prepared for `train_step`."""
    from pythae.data.datasets import BaseDataset  # noqa: PLC0415
    from pythae.trainers import BaseTrainer, BaseTrainerConfig  # noqa: PLC0415

    folder = tempfile.mkdtemp()
    configuration = BaseTrainerConfig(output_dir=folder, per_device_train_batch_size=BATCH, no_cuda=device == "cpu")
    made = BaseTrainer(model, BaseDataset(images, torch.zeros(len(images))), training_config=configuration)
    made.prepare_training()
    return made


def pythae_steps(name: str, steps: int, device: str = "cpu") -> float:
    """Return Pythae's speed in images per second, over one epoch of `steps` steps."""
    torch.set_num_threads(cores())
    model = MODELS.get(name) or MODELS.setdefault(name, networks()[name][0]())
    images = tensors.as_float(noise(steps * BATCH))
    with quiet():
        made = trainer(model, images, device)
        started = time.perf_counter()
        made.train_step(1)
    return len(images) / (time.perf_counter() - started)


def run() -> Table:
    """Compare the three speeds for each of the networks, on all cores."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return _table(lambda name, steps: process.submit(pythae_steps, name, steps).result())


def _table(pythae: Callable[[str, int], float]) -> Table:
    torch.set_num_threads(cores())
    rows: list[list[Value]] = []
    for name, (build, learner) in networks().items():
        torch.manual_seed(0)
        ours = learner(build()).to(memory_format=torch.channels_last)  # the pipeline's memory layout
        plain = learner(build())
        parameters = sum(parameter.numel() for parameter in ours.parameters())
        batch = torch.rand(BATCH, *IMAGE)
        bare_steps(plain, batch, 2)
        steps = max(3, int(SECONDS * bare_steps(plain, batch, 3) / BATCH))
        stored = noise(steps * BATCH)
        loop, bare, peer = take_turns(
            [
                lambda m=ours, s=stored, n=steps: loop_steps(m, s, n, BATCH),  # type: ignore[misc]
                lambda m=ours, b=batch, n=steps: bare_steps(m, b, n),  # type: ignore[misc]
                lambda name=name, n=steps: pythae(name, n),  # type: ignore[misc]
            ],
            TURNS,
        )
        medians = [statistics.median(each) for each in (loop, bare, peer)]
        rows.append([name, parameters / 1e6, *medians, ratio(loop, bare)[0], *ratio(loop, peer)])
    note = (
        f"Images per second on {cores()} threads, with batches of {BATCH} in float32: medians of {TURNS} repetitions "
        f"of about {SECONDS:.0f} s. All networks come from Pythae: “its” means Pythae's. Our loop is the "
        "pipeline's training loop. In our loop, the networks have the memory layout channels last, as in the pipeline."
    )
    columns = {"network": 0, "million parameters": 2, "our loop": 0, "bare step": 0, "Pythae": 0,
               "our loop ÷ bare step": 3, "our loop ÷ Pythae": 2, "least to greatest": 0}  # fmt: skip
    return Table("(b) The same network in our loop and in Pythae", note, columns, rows)
