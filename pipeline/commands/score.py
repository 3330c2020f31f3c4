"""`sca score`: the paper's metrics of predictions that are there already, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.terminal import say


def score(
    predictions: Annotated[
        Path, typer.Argument(help="The file that `sca evaluate --predictions` or the official code wrote.")
    ],
    name: Annotated[str | None, typer.Option(help="What the table calls the model.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the table there, as JSON.")
    ] = None,
) -> None:
    """Score predicted captions beside the paper's rows, without a model.

    Example: sca score predictions.json --json scores.json
    """
    import json

    from pipeline.core.output_files import check_output, writing_output
    from sca.evaluation.paper_table import report_on
    from sca.evaluation.predictions import read_predictions

    if json_out is not None:
        check_output(json_out, source=str(predictions))
    report = report_on(read_predictions(predictions), name or predictions.stem)
    say(report.text())
    if json_out is not None:
        with writing_output(json_out) as file:
            file.write(
                json.dumps(report.to_dict(), indent=2, ensure_ascii=False).encode(errors="backslashreplace")
            )
