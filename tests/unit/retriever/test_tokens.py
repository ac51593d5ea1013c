"""BM25 in languages with and without spaces between words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bm25s.tokenization import Tokenizer

from services.retriever import manifest as manifests
from services.retriever.bm25 import BM25S
from services.retriever.build import Plan, build
from services.retriever.index import Index
from services.retriever.tokens import ENGLISH, ENGLISH_AND_NGRAMS, SPLITTERS
from tests.unit.retriever.helpers import FakeEncoder

OLD, NEW = SPLITTERS[ENGLISH], SPLITTERS[ENGLISH_AND_NGRAMS]
TEXTS = (
    "The harbour of Ostwick was dredged in 1911.",
    "奥斯特港于一九一一年疏浚，工程师是安娜。",
    "佩勒姆有两座灯塔和一座磨坊。",
    "オストの港は１９１２年に浚渫された。PDFを読む。",
    "오스트 항구는 1913년에 준설되었다.",
    "ท่าเรือออสต์ถูกขุดลอกในปี ๑๙๑๔",
    "تم تجريف الميناء في عام 1915 على يد المهندسة آنا.",
    "Гавань Оствика углубили в 1916 году.",
)


def test_words_are_those_of_bm25s() -> None:
    splitter = Tokenizer().splitter
    for text in (*TEXTS, "Don't stop: naïve café, x-ray 3.14 A_b"):
        assert OLD.passage(text) == OLD.query(text) == splitter(text.lower())


@pytest.mark.parametrize("text", ["Don't stop: x-ray 3.14 A_b", "naïve café — “Ω” 5", "Гавань Оствика", "الميناء 1911"])
def test_texts_with_spaces_give_the_same_words_as_before(text: str) -> None:
    assert NEW.passage(text) == NEW.query(text) == OLD.query(text)


@pytest.mark.parametrize(
    ("text", "passage", "query"),
    [
        ("奥斯特", ["奥", "斯", "特", "奥斯", "斯特"], ["奥斯", "斯特"]),
        ("港", ["港"], ["港"]),
        ("PDFを read", ["pdf", "を", "read"], ["pdf", "を", "read"]),
        ("Ｏｓｔ１９１１", ["ost1911"], ["ost1911"]),
        ("ｵｽﾄ・港。", ["オ", "ス", "ト", "オス", "スト", "港"], ["オス", "スト", "港"]),
        ("𠮷野", ["𠮷", "野", "𠮷野"], ["𠮷野"]),
    ],
)
def test_scripts_without_spaces_give_bigrams(text: str, passage: list[str], query: list[str]) -> None:
    assert (NEW.passage(text), NEW.query(text)) == (passage, query)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("indexes")
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS)]
    (out / "c.jsonl").write_text("\n".join(lines))
    return build(Plan(out / "c.jsonl", "many", out, ""), lambda _: FakeEncoder(), lambda _: None)


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("When was the harbour dredged?", 0),
        ("奥斯特港哪一年疏浚?", 1),
        ("灯塔", 2),
        ("塔", 2),
        ("港はいつ浚渫されましたか", 3),
        ("PDF", 3),
        ("1912", 3),
        ("항구", 4),
        ("ท่าเรือ", 5),
        ("متى تم تجريف الميناء؟", 6),
        ("гавань", 7),
    ],
)
def test_a_passage_is_found_in_its_language(folder: Path, query: str, row: int) -> None:
    [found] = Index(folder).bm25([query], 3)
    assert found[0][0] == row


def test_an_older_index_keeps_its_words(folder: Path) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    assert fields["bm25_parameters"] == {"tokenizer": ENGLISH_AND_NGRAMS}
    made = manifests.read(folder, True)
    older = {
        key: value
        for key, value in fields.items()
        if key not in ("bm25_parameters", "encoder_parameters", "parameters")
    }
    older["version"] = manifests.content_hash(made.files, "", "flat")
    try:
        path.write_text(json.dumps(older))
        index = Index(folder)
        assert [row for row, _ in index.bm25(["harbour"], 3)[0]] == [0]
        assert index.bm25(["两座灯塔"], 3) == [[]]
    finally:
        path.write_text(json.dumps(fields))


def test_bm25_never_imports_jax(tmp_path: Path) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise SystemExit('JAX was imported')")
    (tmp_path / "jax" / "lax.py").touch()
    code = (
        "import sys; from pathlib import Path; from services.retriever.bm25 import BM25S\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "BM25S.build(['one word'], folder)\n"
        "print(BM25S.open(folder, 1, BM25S.parameters).search(['word'], 1), 'jax' in sys.modules)"
    )
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[3])))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.startswith("[[(0, ")
    assert done.stdout.endswith(" False\n")


def test_the_tokenizer_of_new_indexes_is_one_that_is_known() -> None:
    BM25S.check(BM25S.parameters)
