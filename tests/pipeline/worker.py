"""One of two processes that extract together; started by test_extract.py.

python -m tests.pipeline.worker COORDINATOR FOLDER PROCESS_ID
"""

import dataclasses
import sys

from hagd_jax.parallel import make_mesh, start
from hagd_jax.pipeline import extract, open_run
from tests.models.noise import on_mesh
from tests.pipeline.copier import EXTRACT, make_copier, make_task


def main(coordinator, folder, process):
    start(coordinator, 2, int(process))
    run = open_run(folder, {})
    model = on_mesh(make_copier(), make_mesh("data=4"))
    extract(model, make_task(), dataclasses.replace(EXTRACT, nodes="4"), out=run)


if __name__ == "__main__":
    main(*sys.argv[1:])
