"""Where the processes of a demo listen, and the settings that say so to each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo import envoy
from warpline.children import free_port


@dataclass(frozen=True)
class Addresses:
    """Where the demo's processes listen, all on the loopback."""

    http_door: str
    grpc_door: str
    query: str
    dashboard: str
    server: str
    front: str
    """Where clients send: Envoy's address."""

    @classmethod
    def free(cls) -> Addresses:
        """Return addresses that are free, the usual ones where they are."""
        ports = [free_port(preferred) for preferred in (4318, 4317, 4320, 8501, 8001, 8000)]
        return cls(*(f"127.0.0.1:{port}" for port in ports))

    def environment(self, state_dir: Path) -> dict[str, str]:
        """Return the settings of every process of the demo, as variables."""
        return {
            "WARPLINE_STATE_DIR": str(state_dir),
            "WARPLINE_CORRELATOR_HTTP_ADDRESS": self.http_door,
            "WARPLINE_CORRELATOR_GRPC_ADDRESS": self.grpc_door,
            "WARPLINE_CORRELATOR_QUERY_ADDRESS": self.query,
            "WARPLINE_QUERY_URL": f"http://{self.query}",
            "WARPLINE_DASHBOARD_ADDRESS": self.dashboard,
            "WARPLINE_COLLECTOR_ENDPOINT": f"http://{self.http_door}",
            "WARPLINE_COLLECTOR_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
            # The second load comes as fast as two cores go, as no day's load does: nothing of it is to be left out.
            "WARPLINE_COLLECTOR_BUDGET_RATIO": "1",
            "WARPLINE_HTTP_PORTS": ",".join(each.rpartition(":")[2] for each in (self.server, self.front)),
            "WARPLINE_ENVOY_LOG_FILES": str(envoy.log_file(state_dir / "envoy")),
            "WARPLINE_RING_DIR": str(state_dir / "rings"),
            "WARPLINE_DCGM_URLS": f"http://{self.server}/dcgm/metrics",
            "WARPLINE_DCGM_INTERVAL_S": "1",
            "WARPLINE_ENGINE_URLS": f"{self.server}",
            "WARPLINE_ENGINE_INTERVAL_S": "1",
            "WARPLINE_ENGINE_WIRE_EXECUTABLES": "demo.engine.core",
        }
