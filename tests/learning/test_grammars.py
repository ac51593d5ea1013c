"""The grammars under xgrammar, which vLLM uses, with the embedded model's tokenizer."""

import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from search_agent import gbnf, tags
from search_agent.agents import deep_retrieval, ircot, search_o1, search_r1
from services.generator.base_model import tokenizer_of
from services.generator.gguf_files import embedded_model

xgrammar = pytest.importorskip("xgrammar")

VOCABULARY, END = 49152, 2
# the longest line: the slowest
LINE = ("Radium was found in Paris in 1898 by Marie and Pierre Curie. " * 9)[: gbnf.LINE_CHARS].strip()
TEXTS = {
    "s3 searches": (tags.move_grammar(8, 3, True), tags.render_move(tags.Move((1, 3), LINE))),
    "s3 is done": (tags.move_grammar(8, 3, False), tags.render_move(tags.Move((2,), complete=True))),
    "ircot": (ircot.move_grammar(), ircot.render_move(ircot.Move(LINE, False))),
    "search_o1": (search_o1.move_grammar(), search_o1.render_move(LINE, search_o1.Move(LINE))),
    "search_o1's digest": (search_o1.digest_grammar(), LINE),
    "search_r1": (search_r1.move_grammar(True), search_r1.render_move(LINE, search_r1.Move(LINE))),
    "deep_retrieval": (
        deep_retrieval.rewriting_grammar(),
        deep_retrieval.render_rewriting(LINE, LINE),
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of(Path(embedded_model()), END)


@pytest.fixture(scope="module")
def compiler(tokenizer: Any) -> Any:
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=VOCABULARY))


@pytest.mark.parametrize("name", TEXTS)
def test_a_rendered_text_is_accepted_and_may_end(name: str, tokenizer: Any, compiler: Any) -> None:
    grammar, text = TEXTS[name]
    matcher = xgrammar.GrammarMatcher(compiler.compile_grammar(grammar))
    allowed = xgrammar.allocate_token_bitmask(1, VOCABULARY)
    seconds = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        started = time.perf_counter()
        matcher.fill_next_token_bitmask(allowed)
        seconds.append(time.perf_counter() - started)
        assert matcher.accept_token(token), tokenizer.decode([token])
    matcher.fill_next_token_bitmask(allowed)
    assert allowed[0, 0] & 1 << END
    assert matcher.accept_token(END)
    assert matcher.is_terminated()
    # vLLM does this for each request and token while its GPU waits
    assert statistics.fmean(seconds) < 2e-3
