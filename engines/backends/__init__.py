"""The compilers that a stage can be handed to, behind one interface, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from sca.parts import Registry, registry

if TYPE_CHECKING:
    from engines.backends.interface import Backend

BACKENDS: Registry[Callable[[], Backend]] = registry(
    "engine back end",
    "engine_backends",
    {
        "tensorrt": "engines.backends.tensorrt:TensorRtBackend",
        "torch-tensorrt": "engines.backends.torch_tensorrt:TorchTensorRtBackend",
        "inductor": "engines.backends.inductor:InductorBackend",
        "openvino": "engines.backends.openvino:OpenVinoBackend",
        "onnxruntime": "engines.backends.onnxruntime:OnnxRuntimeBackend",
        "eager": "engines.backends.eager:EagerBackend",
    },
)
"""Parts are called without arguments. Importing this needs no torch."""


@cache
def backend_named(name: str) -> Backend:
    """The back end of this name. UserError as in `Registry.get`."""
    return BACKENDS.get(name)()
