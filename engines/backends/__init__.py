"""The compilers that a stage can be handed to, behind one interface, by name."""

from __future__ import annotations

from engines.backends.eager import EagerBackend
from engines.backends.inductor import InductorBackend
from engines.backends.interface import Backend
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend
from engines.backends.tensorrt import TensorRtBackend
from engines.backends.torch_tensorrt import TorchTensorRtBackend
from sca.errors import UserError

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        TensorRtBackend(),
        TorchTensorRtBackend(),
        InductorBackend(),
        OpenVinoBackend(),
        OnnxRuntimeBackend(),
        EagerBackend(),
    )
}


def backend_named(name: str) -> Backend:
    """The back end of this name.

    Raises:
        UserError: there is none.
    """
    if name not in BACKENDS:
        raise UserError(
            f"Engine back end {name!r} is unknown. Remedy: use one of auto, {', '.join(BACKENDS)}."
        )
    return BACKENDS[name]
