"""The start of every command that runs a model: processes, devices, model, features, provenance."""

from __future__ import annotations

import dataclasses
import time

from hagd_jax import models, parallel, transcoders, units
from hagd_jax.cli.cluster import Cluster
from hagd_jax.pipeline.facts import facts
from hagd_jax.report.progress import Stop, never
from hagd_jax.units.dictionary import MLPS, NEURONS


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that a command runs on.

    Attributes:
        mesh: Devices to spread over, e.g. data=2,model=4; one device if empty.
        cluster: How the processes of one run find each other.
    """

    mesh: str = ""
    cluster: Cluster = Cluster()


class Session:
    """A command that has begun: it has joined its cluster and knows its devices.

    Args:
        devices: Where to run.
        line: The command line, for the record.
        stop: Called as the work goes on; raises `Interrupted` if it should stop there.
    """

    def __init__(self, devices: Devices, line: str = "", stop: Stop = never):
        self.began = time.monotonic()
        self.line, self.stop = line, stop
        devices.cluster.start()
        self.mesh = parallel.make_mesh(devices.mesh)

    def model(self, source: str, dtype: str) -> models.LanguageModel:
        """Load a model onto the devices.

        Args:
            source: A folder, a .gguf file, a preset or a hub id.
            dtype: Of weights and computation.

        Returns:
            The model.
        """
        return models.load(source, dtype=dtype, mesh=self.mesh)

    def transcoder(
        self, model: models.LanguageModel, features: str
    ) -> transcoders.Transcoder | None:
        """Load a transcoder, in the dtype of its model.

        Args:
            model: The model.
            features: A folder or hub id; or `neurons`, for none.

        Returns:
            The transcoder, or None.
        """
        if features == NEURONS:
            return None
        dtype = model.config.dtype
        return transcoders.load(features, mesh=self.mesh, model=model, dtype=dtype)

    def dictionary(
        self, model: models.LanguageModel, features: str, *, keep_error: bool = True
    ) -> units.Dictionary:
        """Load the nodes inside MLPs.

        Args:
            model: The model.
            features: `neurons`, `mlps`, or a transcoder as a folder or hub id.
            keep_error: Whether a transcoder's reconstruction error stays in every circuit.

        Returns:
            The dictionary, in the dtype of the model.
        """
        if features == MLPS:
            return units.blocks(model)
        return units.as_dictionary(model, self.transcoder(model, features), keep_error=keep_error)

    def facts(self, model: models.LanguageModel | None = None, **more: str) -> dict[str, str]:
        """The provenance of a page.

        Args:
            model: The model, or None if the page names it itself.
            **more: Name → value, beside what every page shows.

        Returns:
            Name → value.
        """
        return facts(model, self.began, self.line) | more
