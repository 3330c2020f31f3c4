"""The pure parts of the engines: precision, order of back ends, buckets, keys and the parity gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.cuda_graphs import bucket_lengths, choose_bucket, pad_to_bucket
from engines.devices import Device, Precision, choose_precision
from engines.manifest import EngineKey
from engines.parity import compare
from engines.selection import attempts, language_choice
from engines.verdicts import ParityReport, SeenReport, Timing
from sca.stages.spec import DynamicAxis, OutputKind, Stage, StageInput, StageOutput
from tests.engine_fixtures import small_stage

OLD_CPU = Device("cpu", "Zen 3", "x86_64+avx2", False, "Zen 3 x86_64+avx2")
NEW_CPU = Device("cpu", "Sapphire", "x86_64+avx512+amx_bf16", True, "Sapphire x86_64+avx512+amx_bf16")
H200 = Device("cuda", "H200", "sm90", True, "H200 sm90")


@pytest.mark.parametrize(
    ("requested", "backend", "device", "expected"),
    [
        ("auto", "openvino", NEW_CPU, Precision.BFLOAT16),
        ("auto", "openvino", OLD_CPU, Precision.FLOAT32),
        ("auto", "eager", NEW_CPU, Precision.FLOAT32),
        ("auto", "eager", H200, Precision.BFLOAT16),
        ("auto", "onnxruntime", H200, Precision.BFLOAT16),
        ("auto", "tensorrt", H200, Precision.BFLOAT16),
        ("auto", "tensorrt", OLD_CPU, Precision.BFLOAT16),
        ("bfloat16", "openvino", OLD_CPU, Precision.FLOAT32),
        ("float16", "openvino", NEW_CPU, Precision.FLOAT32),
        ("float16", "tensorrt", H200, Precision.FLOAT16),
        ("bfloat16", "onnxruntime", NEW_CPU, Precision.FLOAT32),
        ("float32", "tensorrt", H200, Precision.FLOAT32),
    ],
)
def test_precision_follows_the_device(
    requested: str, backend: str, device: Device, expected: Precision
) -> None:
    choice = choose_precision(requested, backend, device)
    assert choice.precision is expected
    if requested not in ("auto", expected):
        assert choice.reason, "another precision than the one asked for needs a reason"


def test_float16_is_never_chosen_by_itself() -> None:
    for device in (OLD_CPU, NEW_CPU, H200):
        for attempt in attempts("auto", "auto", device):
            assert attempt.precision is not Precision.FLOAT16


def test_unknown_precision_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        choose_precision("fp8", "openvino", NEW_CPU)


def test_auto_takes_openvino_on_cpu_and_tensorrt_on_gpu() -> None:
    assert attempts("auto", "auto", OLD_CPU)[0].backend == "openvino"
    assert attempts("auto", "auto", H200)[0].backend == "tensorrt"


@pytest.mark.parametrize("requested", ["auto", "openvino", "tensorrt", "eager"])
@pytest.mark.parametrize("device", [OLD_CPU, NEW_CPU, H200])
def test_every_order_begins_with_the_wish_and_ends_with_eager_float32(requested: str, device: Device) -> None:
    tried = attempts(requested, "auto", device)
    assert requested in ("auto", tried[0].backend)
    assert (tried[-1].backend, tried[-1].precision) == ("eager", Precision.FLOAT32)
    assert len({(one.backend, one.precision) for one in tried}) == len(tried)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        (NEW_CPU, "auto", ("auto", "float32")),
        (NEW_CPU, "bfloat16", ("auto", "bfloat16")),
        (H200, "auto", ("eager", "auto")),
    ],
)
def test_words_are_kept_exact_on_a_cpu_and_captured_whole_on_a_gpu(
    device: Device, precision: str, expected: tuple[str, str]
) -> None:
    assert language_choice("auto", precision, device) == expected


@pytest.mark.parametrize(
    ("eager_s", "engine_s", "refused"),
    [(0.1, 0.05, False), (0.1, 0.12, False), (0.1, 0.2, True), (0.0001, 0.0009, False)],
)
def test_only_a_clearly_slower_engine_is_refused(eager_s: float, engine_s: float, refused: bool) -> None:
    assert bool(Timing(eager_s, engine_s).failures()) is refused


@given(minimum=st.integers(1, 9), extra=st.integers(0, 300), data=st.data())
def test_a_bucket_holds_its_length_and_wastes_less_than_half(
    minimum: int, extra: int, data: st.DataObject
) -> None:
    axis = DynamicAxis("prompts", minimum, minimum, minimum + extra)
    length = data.draw(st.integers(axis.minimum, axis.maximum))
    bucket = choose_bucket(length, bucket_lengths(axis))
    assert length <= bucket <= axis.maximum
    assert bucket < 2 * length or bucket == axis.minimum


def test_more_than_the_largest_bucket_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--max-prompts"):
        choose_bucket(65, bucket_lengths(DynamicAxis("prompts", 1, 8, 64)))


@settings(max_examples=20, deadline=None)
@given(prompts=st.integers(1, 64))
def test_padding_to_a_bucket_does_not_change_the_result(prompts: int) -> None:
    stage = small_stage()
    inputs = stage.example(prompts=prompts, seed=prompts)
    padded, length = pad_to_bucket(stage, inputs)
    assert length == prompts
    with torch.inference_mode():
        for expected, got in zip(stage.module(*inputs), stage.module(*padded), strict=True):
            torch.testing.assert_close(got[:length], expected, atol=1e-5, rtol=1e-5)


def test_an_axis_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts"):
        DynamicAxis("prompts", 4, 2, 8)


KEY = EngineKey("s", "w", "c", "sig", "openvino", "1", "2.14", "float32", "avx2", 1)


@given(st.sampled_from(["weights", "code", "signature", "backend_version", "precision", "device", "stage"]))
def test_any_part_of_the_key_changes_the_digest(part: str) -> None:
    other = replace(KEY, **{part: "another"})
    assert other.digest != KEY.digest
    assert other.folder != KEY.folder
    assert KEY.differences(other) != KEY.differences(KEY)


OUTPUTS = (
    StageOutput("features"),
    StageOutput("masks", OutputKind.MASK_LOGITS),
    StageOutput("scores", OutputKind.SCORES),
    StageOutput("logits", OutputKind.TOKEN_LOGITS),
)


def outputs(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return made(3, 8, 16), made(3, 4, 20, 20), made(3, 4), made(3, 50)


@given(st.integers(0, 10_000))
def test_the_gate_passes_what_is_equal(seed: int) -> None:
    report = compare(OUTPUTS, [outputs(seed)], [outputs(seed)])
    assert report.passed
    assert report.cosine == pytest.approx(1.0)
    assert report.mask_iou == 1.0


@given(st.integers(0, 10_000), st.integers(0, 3), st.sampled_from(["noise", "nan"]))
def test_the_gate_refuses_any_one_output_that_is_wrong(seed: int, which: int, kind: str) -> None:
    expected, got = outputs(seed), list(outputs(seed))
    wrong = outputs(seed + 1)[which]
    got[which] = wrong if kind == "noise" else torch.full_like(wrong, torch.nan)
    report = compare(OUTPUTS, [expected], [got])
    assert not report.passed
    assert report.failures()


def test_one_bad_prompt_among_many_good_ones_is_seen() -> None:
    expected = torch.randn(64, 8, 16)
    got = expected.clone()
    got[17] = -got[17]
    assert not compare(OUTPUTS[:1], [(expected,)], [(got,)]).passed


def test_a_stage_whose_input_and_output_share_a_name_is_refused() -> None:
    with pytest.raises(AssertionError, match="share a name"):
        Stage("s", torch.nn.Identity(), (StageInput("x", (1,)),), (StageOutput("x"),))


def test_what_is_seen_decides_over_a_changed_word_and_is_said_with_figures() -> None:
    report = ParityReport(3, 0.01, cosine=0.9995, same_tokens=False)
    assert report.failures()
    fine = replace(report, seen=SeenReport(100, 0.99, 0.98))
    assert fine.passed
    worse = replace(report, seen=SeenReport(100, 0.979, 0.97))
    assert worse.failures() == (
        "the same masks of 97.9% of 100 regions < 98%",
        "the same captions of 97.0% of 100 regions < 98%",
    )
    assert not replace(fine, cosine=0.9).passed
