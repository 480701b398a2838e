"""Start a command that runs a model: join the cluster, make the mesh, load model and features."""

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
    """Devices holds the flags for the devices that a command runs on.

    Attributes:
        mesh: Mesh of devices to shard over, e.g. data=2,model=4; one device if empty.
        cluster: Flags that join several processes into one run.
    """

    mesh: str = ""
    cluster: Cluster = Cluster()


class Session:
    """Session is a running command, which has joined its cluster and made its mesh.

    Args:
        devices: Devices to run on.
        line: Command line, for the report.
        stop: Called regularly during the work; raises `Interrupted` to stop it there.
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
            dtype: Dtype of weights and computation.

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
            features: A folder or hub id of a transcoder, or `neurons`.

        Returns:
            The transcoder; None for `neurons`.
        """
        if features == NEURONS:
            return None
        dtype = model.config.dtype
        return transcoders.load(features, mesh=self.mesh, model=model, dtype=dtype)

    def rows(
        self, model: models.LanguageModel, features: str
    ) -> transcoders.Transcoder | transcoders.LazyTranscoder | None:
        """Open a transcoder for graphs, which read few rows of it; on a mesh it is loaded.

        Args:
            model: The model.
            features: A folder or hub id of a transcoder, or `neurons`.

        Returns:
            The transcoder, on disk or in memory; None for `neurons`.
        """
        if features == NEURONS or self.mesh is not None:
            return self.transcoder(model, features)
        return transcoders.open_lazy(features, model=model, dtype=model.config.dtype)

    def dictionary(
        self, model: models.LanguageModel, features: str, *, keep_error: bool = True
    ) -> units.Dictionary:
        """Return the dictionary of the nodes inside MLPs.

        Args:
            model: The model.
            features: `neurons`, `mlps`, or the folder or hub id of a transcoder.
            keep_error: Whether a transcoder's reconstruction error is part of every circuit.

        Returns:
            The dictionary, in the dtype of the model.
        """
        if features == MLPS:
            return units.blocks(model)
        found = self.transcoder(model, features)
        nodes = units.as_dictionary(model, found, keep_error=keep_error)
        units.warn_of_nothing(model, nodes)
        return nodes

    def facts(self, model: models.LanguageModel | None = None, **more: str) -> dict[str, str]:
        """Return the provenance that a page shows: model, runtime, command line and versions.

        Args:
            model: The model, or None if the page names it itself.
            **more: Further entries, by name.

        Returns:
            Name → value.
        """
        return facts(model, self.began, self.line) | more
