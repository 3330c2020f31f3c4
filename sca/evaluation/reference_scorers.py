"""The paper's metrics by the reference programs: coco-caption's scorers over Penn Treebank tokens, and spaCy's recalls.

Whatever is not installed here leaves a reason in place of a number.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sca.errors import UserError

METRICS = ("CIDEr-D", "METEOR", "SPICE", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "Noun", "Verb", "Noun (F)", "Verb (F)", "mask IoU")  # fmt: skip
"""In the order of the table."""

_TOKENIZER_JAR = "stanford-corenlp-3.4.1.jar"
_GRAMMAR_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_WORDS_MODEL = "en_core_web_lg"
# Java 17 keeps these to itself, and SPICE's cache reads them.
_OPENED = (
    "java.lang",
    "java.math",
    "java.util",
    "java.util.concurrent",
    "java.net",
    "java.text",
    "java.sql/java.sql",
)


@dataclass(frozen=True)
class Scores:
    """Metrics over all pairs, as fractions (CIDEr-D as the scorer gives it: the table shows it times 100, like the others).
    `missing`: why others are not there; `notes`: what was not done as the published rows were.
    """

    pairs: int
    values: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def score_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """One candidate and all references a region. CIDEr's document frequencies are those of these references.

    UserError for lists of different lengths, none, and regions without a reference.
    """
    if len(candidates) != len(references) or not candidates:
        raise UserError(
            f"{len(candidates)} captions for {len(references)} regions: give one caption a region"
        )
    bare = next((i for i, own in enumerate(references) if not own), None)
    if bare is not None:
        raise UserError(f"region {bare} has no reference: leave it out of the predictions")
    values: dict[str, float] = {}
    missing: dict[str, str] = {}
    words = ("CIDEr-D", "METEOR", "SPICE", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L")
    try:
        flat = iter(tokenize([*candidates, *(text for own in references for text in own)]))
        said = {i: [next(flat)] for i in range(len(candidates))}
        wanted = {i: [next(flat) for _ in own] for i, own in enumerate(references)}
    except _NotHere as absent:
        missing |= dict.fromkeys(words, str(absent))
    else:
        values |= _plain_scores(wanted, said)
        java_scores(wanted, said, values, missing)
    notes = _recalls(candidates, references, values, missing)
    return Scores(len(candidates), values, missing, notes)


Words = Mapping[int, list[str]]


def java_scores(wanted: Words, said: Words, values: dict[str, float], missing: dict[str, str]) -> None:
    """Put METEOR and SPICE of words that are split already into `values`, or why one cannot be computed into `missing`.

    `wanted`: the references of each region; `said`: its one candidate.
    """
    for name, score in (("METEOR", _meteor), ("SPICE", _spice)):
        try:
            values[name] = score(wanted, said)
        except _NotHere as absent:
            missing[name] = str(absent)


class _NotHere(Exception):
    """A metric cannot be computed on this machine; the text says why."""


def _package() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    return (
        Path(next(iter(found.submodule_search_locations)))
        if found and found.submodule_search_locations
        else None
    )


def _package_with_java() -> Path:
    """The folder of pycocoevalcap, whose programs are Java's."""
    if (package := _package()) is None:
        raise _NotHere("pycocoevalcap is not installed: pip install 'segment-caption-stream[evaluate]'")
    if shutil.which("java") is None:
        raise _NotHere("Java is not installed, which splits the words and scores them: install a JRE")
    return package


def tokenize(texts: Sequence[str]) -> list[str]:
    """Texts in Penn Treebank words, lower case and without punctuation, by the program that coco-caption carries.

    Line breaks in a text are blanks, and what no file can hold (half of a surrogate pair) is a question mark.
    """
    package = _package_with_java()
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "texts"
        lines = "\n".join(" ".join(text.splitlines()) for text in texts)
        listing.write_bytes(lines.encode("utf-8", errors="replace"))
        command = [
            "java",
            "-Dfile.encoding=UTF-8",
            "-cp",
            _TOKENIZER_JAR,
            "edu.stanford.nlp.process.PTBTokenizer",
        ]
        done = subprocess.run(
            [*command, "-encoding", "UTF-8", "-preserveLines", "-lowerCase", str(listing)],
            cwd=package / "tokenizer",
            capture_output=True,
            check=False,
        )
    found = done.stdout.decode("utf-8", errors="replace").split("\n")
    if done.returncode or len(found) < len(texts):
        raise _NotHere(f"Java's tokenizer failed ({_last_words(done.stderr)}): check Java")
    return [
        " ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATIONS) for line in found[: len(texts)]
    ]


def _last_words(told: bytes) -> str:
    """What a program said of its failure, in one line."""
    return " ".join(told.decode(errors="replace").split())[:200]


def _plain_scores(wanted: Words, said: Words) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
    found = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, 1)}
    found["ROUGE-L"] = float(Rouge().compute_score(wanted, said)[0])
    found["CIDEr-D"] = float(Cider().compute_score(wanted, said)[0])
    return found


def _meteor(wanted: Words, said: Words) -> float:
    _package_with_java()
    from pycocoevalcap.meteor.meteor import Meteor

    # Its program parts the texts of a line by three strokes, and the package takes them out of candidates only.
    apart = {i: [text.replace("|||", "") for text in own] for i, own in wanted.items()}
    scorer = Meteor()
    try:
        return float(scorer.compute_score(apart, said)[0])
    except (OSError, ValueError) as error:
        raise _NotHere(f"METEOR's Java program failed ({error}): check Java") from error
    finally:
        # Where it failed it still holds the lock that its own end waits for.
        if scorer.lock.locked():
            scorer.lock.release()
        scorer.meteor_p.kill()
        with suppress(OSError, ValueError):
            scorer.meteor_p.communicate()


def _spice(wanted: Words, said: Words) -> float:
    package = _package_with_java()
    home = package / "spice"
    if not all((home / "lib" / name).exists() for name in _GRAMMAR_JARS):
        raise _NotHere(
            "Stanford CoreNLP 3.6.0 is not beside it: python -m pycocoevalcap.spice.get_stanford_models"
        )
    entries = [{"image_id": i, "test": said[i][0], "refs": wanted[i]} for i in sorted(wanted)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.json").write_text(json.dumps(entries))
        (Path(folder) / "cache").mkdir()
        opened = [f"--add-opens={_module(name)}=ALL-UNNAMED" for name in _OPENED]
        command = [
            "java",
            *opened,
            "-Xmx8G",
            "-jar",
            "spice-1.0.jar",
            f"{folder}/in.json",
            "-cache",
            f"{folder}/cache",
        ]
        done = subprocess.run(
            [*command, "-out", f"{folder}/out.json", "-subset", "-silent"],
            cwd=home,
            capture_output=True,
            check=False,
        )
        out = Path(folder) / "out.json"
        if done.returncode or not out.is_file():
            raise _NotHere(f"SPICE failed ({_last_words(done.stderr)}): check Java and CoreNLP 3.6.0")
        found = json.loads(out.read_text(encoding="utf-8"))
    values = [float(row["scores"]["All"]["f"]) for row in found]
    return sum(values) / len(values)


def _module(name: str) -> str:
    return name if "/" in name else f"java.base/{name}"


def _recalls(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    values: dict[str, float],
    missing: dict[str, str],
) -> tuple[str, ...]:
    """How many of the references' nouns and verbs are said, exactly and by likeness of word vectors. Returns notes."""
    names = ("Noun", "Verb", "Noun (F)", "Verb (F)")
    model = os.environ.get("SCA_SPACY_MODEL", _WORDS_MODEL)
    try:
        import spacy

        language: Any = spacy.load(model)
    except ModuleNotFoundError as error:
        remedy = f"{error.name} is not installed: pip install 'segment-caption-stream[evaluate]'"
        missing |= dict.fromkeys(names, remedy.replace("spacy", "spaCy", 1))
        return ()
    except OSError:
        missing |= dict.fromkeys(
            names, f"spaCy's {model} is not installed: python -m spacy download {_WORDS_MODEL}"
        )
        return ()
    except Exception as error:  # compiled against another numpy, a model of another version
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        missing |= dict.fromkeys(names, f"spaCy or its {model} cannot be used ({reason}): install them again")
        return ()
    has_vectors = bool(language.vocab.vectors_length)
    if not has_vectors:
        missing |= dict.fromkeys(names[2:], f"spaCy's {model} has no word vectors: use {_WORDS_MODEL}")
    said = list(language.pipe(candidates))
    wanted = list(language.pipe([" ".join(own) for own in references]))
    for name, kinds in (("Noun", {"NOUN", "PROPN"}), ("Verb", {"VERB"})):
        exact = fuzzy = 0.0
        for one, other in zip(said, wanted, strict=True):
            ours = {token.text: token for token in one if token.pos_ in kinds}
            theirs = {token.text: token for token in other if token.pos_ in kinds}
            exact += len(ours.keys() & theirs.keys()) / (len(theirs) + 1e-8)
            if not has_vectors:
                continue
            best = [
                max((float(token.similarity(mine)) for mine in ours.values()), default=0.0)
                for token in theirs.values()
            ]
            fuzzy += sum(best) / len(best) if best else 0.0
        # Regions whose references have no such word count as nothing, as in the reference.
        values[name] = exact / len(said)
        if has_vectors:
            values[f"{name} (F)"] = fuzzy / len(said)
    return (
        () if model == _WORDS_MODEL else (f"Noun, Verb: by spaCy's {model}, the paper's by {_WORDS_MODEL}",)
    )
