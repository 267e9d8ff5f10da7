"""Counts of the server, as Prometheus reads them. No label holds anything that a client wrote."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from retrodict.serve.api import Service

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


@dataclass
class Metrics:
    """Requests by route and status, and how long they took."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    within: dict[str, list[int]] = field(default_factory=dict)  # requests of each route by bucket

    def note(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        self.seconds[route] += seconds
        self.within.setdefault(route, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1

    def text(self, service: Service) -> str:
        engine = service.engine
        rows = [*_head("requests_total", "counter", "Answers, by route and status; 499: the client left.")]
        for (route, status), count in sorted(self.requests.items()):
            rows.append(f'retrodict_requests_total{{route="{route}",status="{status}"}} {count}')
        rows += _head("request_seconds", "histogram", "From the request's head to the end of the answer.")
        for route, counts in sorted(self.within.items()):
            total = 0
            for bound, count in zip((*BUCKETS, "+Inf"), counts, strict=True):
                total += count
                rows.append(f'retrodict_request_seconds_bucket{{route="{route}",le="{bound}"}} {total}')
            rows.append(f'retrodict_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}')
            rows.append(f'retrodict_request_seconds_count{{route="{route}"}} {total}')
        for name, kind, about, value in (
            ("queue_items", "gauge", "Items that wait for the models.", engine.waiting),
            ("batches_total", "counter", "Batches that the models ran.", engine.batches),
            ("batch_items_total", "counter", "Items in these batches.", engine.items),
            ("model_seconds_total", "counter", "Time in which the models ran.", round(engine.busy, 6)),
            ("candidates_total", "counter", "Candidates that were scored.", service.candidates),
            ("held_bytes", "gauge", "Bytes that requests hold now, images decoded.", service.memory.held),
            ("resident_bytes", "gauge", "Memory of the process.", psutil.Process().memory_info().rss),
        ):
            rows += [*_head(name, kind, about), f"retrodict_{name} {value}"]
        return "\n".join(rows) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP retrodict_{name} {about}", f"# TYPE retrodict_{name} {kind}"]
