"""The paper's metrics: each that of its own package, and a dash with the reason where a program is not here."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sca.evaluation import reference_scorers
from sca.evaluation.reference_scorers import score_pairs, tokenize
from tests.duration import LONG

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="the reference scorers need Java")
long = pytest.mark.skipif(not LONG, reason="takes long; `make test-all` runs it")

# By coco-caption's METEOR 1.5 for `pairs()`, which takes ten seconds to start: `make test-all` asks it again.
METEOR = 0.1837027042578196


def pairs(count: int = 60) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(5)
    subjects = [
        "a red bicycle",
        "The man's hat",
        "two dogs",
        "a white T-shirt",
        "grass",
        'A sign that says "stop"',
    ]
    places = ["on the street.", "in front of a house", "near the water, far away", "", "behind the woman"]
    draw = lambda: f"{rng.choice(subjects)} {rng.choice(places)}".strip()  # noqa: E731
    return [draw() for _ in range(count)], [
        [draw() for _ in range(int(rng.integers(1, 4)))] for _ in range(count)
    ]


def theirs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """The packages' own order: coco-caption's tokenizer, then its scorers, each on its own; METEOR on long days only."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    splitter = PTBTokenizer()
    wanted = splitter.tokenize({i: [{"caption": text} for text in own] for i, own in enumerate(references)})
    said = splitter.tokenize({i: [{"caption": text}] for i, text in enumerate(candidates)})
    assert tokenize(candidates) == [said[i][0] for i in range(len(candidates))]
    bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
    found = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, 1)}
    scorers = [("CIDEr-D", Cider()), ("ROUGE-L", Rouge()), *([("METEOR", Meteor())] if LONG else [])]
    return found | {name: float(scorer.compute_score(wanted, said)[0]) for name, scorer in scorers}


@JAVA
def test_every_metric_is_that_of_its_package() -> None:
    candidates, references = pairs()
    ours = score_pairs(candidates, references).values
    for name, value in ({"METEOR": METEOR} | theirs(candidates, references)).items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    assert theirs(candidates, references).get("METEOR", METEOR) == pytest.approx(METEOR, abs=1e-9)


@long
@JAVA
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no pictures that people described at {DATA}")
def test_every_metric_of_real_captions_is_that_of_its_package() -> None:
    """What the shipped model says of pictures that it was not trained on, beside what people wrote."""
    from sca.evaluation.report import caption_predictor
    from sca.registry import load

    found = caption_predictor(load("demo"), DATA, images=30)
    candidates, references = [own.text for own in found], [list(own.references) for own in found]
    assert len(found) >= 50
    assert len(set(candidates)) >= 20
    ours = score_pairs(candidates, references).values
    wanted = theirs(candidates, references)
    assert len(wanted) == 7
    for name, value in wanted.items():
        assert value > 0, name
        assert ours[name] == pytest.approx(value, abs=1e-6), name


@JAVA
@pytest.mark.parametrize("lacks", ["grammar", "whole grammar"])
def test_spice_without_its_grammar_is_a_dash_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    package = reference_scorers._package()
    assert package is not None
    shutil.copytree(package / "spice", tmp_path / "spice", symlinks=True)
    if lacks == "whole grammar":
        for name in reference_scorers._GRAMMAR_JARS:
            zipfile.ZipFile(tmp_path / "spice" / "lib" / name, "w").close()
    monkeypatch.setattr(reference_scorers, "_package", lambda: tmp_path)
    monkeypatch.setattr(reference_scorers, "_meteor", lambda wanted, said: 0.5)
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    reference_scorers.java_scores({0: ["a dog"]}, {0: ["a dog"]}, values, missing)
    assert values == {"METEOR": 0.5}
    told = "CoreNLP 3.6.0 is not beside it" if lacks == "grammar" else r"SPICE failed"
    assert told in missing["SPICE"]
    assert "\n" not in missing["SPICE"]


def test_a_java_that_does_not_work_is_a_dash_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no room\nfor a heap' >&2; exit 1\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = score_pairs(["a dog"], [["a dog"]])
    assert not {"CIDEr-D", "METEOR", "SPICE"} & found.values.keys()
    assert found.missing["METEOR"] == "Java's tokenizer failed (no room for a heap): check Java"
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    reference_scorers.java_scores({0: ["a dog"]}, {0: ["a dog"]}, values, missing)
    assert not values
    assert missing["METEOR"].startswith("METEOR's Java program failed")


@long
@JAVA
def test_texts_that_are_hard_to_pass_on_are_scored() -> None:
    candidates = ["a dog", "", "...", "a ||| b\n\r\x0b c", "\x00", "dog " * 500, "\ud83d"]
    references = [["..."], ["a dog", "!"], ["a ||| b"], ["a\nb"], ["x"], ["dog dog"], ["\ud83dx"]]
    found = score_pairs(candidates, references)
    assert {"CIDEr-D", "METEOR", "BLEU-4", "ROUGE-L"} <= found.values.keys()


def test_recalls_count_nouns_and_verbs_of_all_references() -> None:
    """By their definition, with vectors of our own arithmetic. A smaller model than the reference's will do."""
    spacy = pytest.importorskip("spacy")
    name = os.environ.get("SCA_SPACY_MODEL", "en_core_web_lg")
    if not (spacy.util.is_package(name) or Path(name).is_dir()):
        pytest.skip(f"spaCy's {name} is not installed")
    candidates, references = pairs(40)
    found = score_pairs(candidates, references).values
    language = spacy.load(name)
    sums = dict.fromkeys(("Noun", "Verb", "Noun (F)", "Verb (F)"), 0.0)
    for text, own in zip(candidates, references, strict=True):
        ours, wanted = list(language(text)), list(language(" ".join(own)))
        for kind, parts in (("Noun", ("NOUN", "PROPN")), ("Verb", ("VERB",))):
            said = {token.text: token.vector for token in ours if token.pos_ in parts}
            asked = {token.text: token.vector for token in wanted if token.pos_ in parts}
            if not asked:
                continue
            sums[kind] += len(said.keys() & asked.keys()) / len(asked)
            likeness = [max((_cosine(a, b) for b in said.values()), default=0.0) for a in asked.values()]
            sums[f"{kind} (F)"] += sum(likeness) / len(likeness)
    for metric, total in sums.items():
        if metric.endswith("(F)") and not language.vocab.vectors_length:
            assert metric not in found
            continue
        assert found[metric] == pytest.approx(total / len(candidates), abs=1e-5), metric


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0
