"""`sca evaluate MODEL --data KIND:DIR`: a model on published data, beside the paper's rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.terminal import PlainConsole
from pipeline.core.errors import UserError
from pipeline.core.output_files import check_output, writing_output

_TOLD_EVERY = 100  # images


@dataclass(frozen=True, slots=True)
class PublishedRequest:
    """What is to be measured, and how. `data`: KIND:DIR; `limit`: images at most, None for all."""

    model: str
    data: str
    split: str | None
    protocol: str | None
    prompt: str
    beams: int
    dtype: str
    device: str
    limit: int | None
    predictions: Path | None
    json_out: Path | None


def evaluate_published(request: PublishedRequest) -> str:
    """Caption what the protocol asks for, write the predictions, and return the table as Markdown.

    UserError, before the model loads, for unknown kinds, protocols and prompts, and data that is not whole.
    """
    import sca
    from sca.data.published import KINDS, read_published
    from sca.evaluation.paper_table import report_on
    from sca.evaluation.predictions import check_protocol, predict, to_official
    from sca.model_names import check_device_name, find_model
    from sca.registry import check_dtype_name

    kind, colon, folder = request.data.partition(":")
    if not colon or not folder:
        raise UserError(
            f"--data {request.data!r} is not KIND:DIR: write one of {', '.join(KINDS)}, a colon and a folder"
        )
    usual = {"vg": "densecap-test", "grit": "grit"}.get(kind, "all-regions")
    protocol = request.protocol or usual
    check_protocol(protocol, kind, request.prompt)
    check_dtype_name(request.dtype)
    find_model(request.model)
    check_device_name(request.device)
    for path in (request.predictions, request.json_out):
        if path is not None:
            check_output(path)
    images = read_published(kind, Path(folder), request.split)[: request.limit]
    predictor = sca.load(request.model, request.device, dtype=request.dtype)
    console = PlainConsole(stderr=True)

    def told(done: int, total: int) -> None:
        if done % _TOLD_EVERY == 0 or done == total:
            console.print(f"{done} of {total} images", style="dim")

    found = list(
        predict(
            predictor,
            images,
            protocol=protocol,
            prompt=request.prompt,
            beams=request.beams,
            model=request.model,
            progress=told,
        )
    )
    if request.predictions is not None:
        _write(request.predictions, to_official(found))
        console.print(f"predictions: {request.predictions}", style="dim")
    report = report_on(found, request.model)
    if request.json_out is not None:
        _write(request.json_out, report.to_dict())
    return report.text()


def _write(path: Path, value: object) -> None:
    with writing_output(path) as file:
        file.write(json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace"))
