"""Mining on a Ray cluster, through Ray Data. Needs the extra `retrodict[ray]`."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterable
from importlib import import_module
from typing import Any

from retrodict.video.clips import ClipRef, ClipResult
from retrodict.video.config import MineConfig
from retrodict.video.pool import Pool


class _Miner:
    """Lives in a Ray actor and keeps one killable worker process: a clip that crashes a codec costs no Ray actor."""

    def __init__(self, config: MineConfig, timeout: float, retries: int) -> None:
        self._pool = Pool(config, workers=1, timeout=timeout, retries=retries)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        refs = [pickle.loads(data) for data in batch["clip"]]
        return {"result": [pickle.dumps(result) for result in self._pool.map(refs)]}


class OnRay:
    """Maps clips over an actor per core of the cluster. Files must have the same path on every node."""

    def __init__(self, config: MineConfig, *, timeout: float, retries: int, workers: int | None = None) -> None:
        try:
            ray: Any = import_module("ray")
            import_module("ray.data")
        except ImportError:
            raise ValueError("The executor 'ray' needs Ray: pip install 'retrodict[ray]'.") from None
        self._ray = ray
        self._config, self._timeout, self._retries, self._workers = config, timeout, retries, workers

    def map(self, refs: Iterable[ClipRef]) -> Generator[ClipResult, None, None]:
        rows = [{"clip": pickle.dumps(ref)} for ref in refs]
        if not rows:
            return
        if not self._ray.is_initialized():  # a cluster that RAY_ADDRESS names, else this machine
            self._ray.init(log_to_driver=False)
        data = self._ray.data
        data.DataContext.get_current().execution_options.preserve_order = True
        workers = self._workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        mined = data.from_items(rows, override_num_blocks=min(len(rows), 4 * workers)).map_batches(
            _Miner,
            fn_constructor_args=(self._config, self._timeout, self._retries),
            batch_size=16,
            concurrency=workers,
        )
        for row in mined.iter_rows():
            yield pickle.loads(row["result"])
