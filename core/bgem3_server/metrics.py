"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counted = ("method", "route", "status")
        self.requests = Counter("bgem3_requests", "Requests answered", counted, registry=self._registry)
        self.seconds = Histogram(
            "bgem3_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self.under_way = Gauge("bgem3_requests_under_way", "Requests accepted, not answered", registry=self._registry)
        self.refused = Counter("bgem3_requests_refused", "Requests over a limit", ("limit",), registry=self._registry)
        self.texts = Counter("bgem3_texts", "Texts of accepted requests", registry=self._registry)
        self.tokens = Counter("bgem3_tokens", "Tokens of accepted requests", registry=self._registry)
        self.ready = Gauge("bgem3_ready", "1 once the model is loaded", registry=self._registry)

    def exposition(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
