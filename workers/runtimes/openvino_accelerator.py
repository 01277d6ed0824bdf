"""OpenVINO on what is no CPU: what its GPU and NPU runtimes have in common beyond `openvino_device`."""

import platform
from typing import Any

from app.catalog.spec import Params
from workers.runtimes import conditions
from workers.runtimes.base import Engine
from workers.runtimes.openvino_device import OpenVinoDevice
from workers.runtimes.openvino_facts import model_facts


class OpenVinoAccelerator(OpenVinoDevice):
    """See `base.Runtime`."""

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, device_name, architecture, cpu_features, inputs, conditions}.

        `device_name` is that of the device that it was built and measured on.
        """
        version = self.versions()["openvino"]
        return {
            "runtime": "openvino",
            "version": version,
            "device": self.spec.device,
            "device_name": self.device_name(),
            "architecture": platform.machine(),
            "cpu_features": [],
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(conditions.openvino_accelerator(version, self.spec.device)),
        }

    def facts(self, graph: Any, compiled: Any) -> dict[str, Any]:
        """See `openvino_facts.model_facts`: these plugins do not tell in the CPU plugin's words what they made of it."""
        return model_facts(graph, self.device, self.computed_in(compiled) or "")
