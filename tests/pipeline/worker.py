"""One of two processes that extract together; started by test_extract.py.

python -m tests.pipeline.worker COORDINATOR FOLDER PROCESS_ID EXECUTOR
"""

import dataclasses
import sys

from hagd_jax.parallel import make_mesh, start
from hagd_jax.pipeline import open_run, run_until
from tests.models.noise import on_mesh
from tests.pipeline.copier import EXTRACT, make_copier, make_task


def main(coordinator, folder, process, executor):
    start(coordinator, 2, int(process))
    run = open_run(folder, {})
    model = on_mesh(make_copier(), make_mesh("data=4"))
    config = dataclasses.replace(EXTRACT, nodes="4", executor=executor)
    run_until("select", model, make_task(), config, out=run)


if __name__ == "__main__":
    main(*sys.argv[1:])
