"""The protocols of the baselines: render, grammar and parser of each agree, and any text is read."""

import random
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search_agent import tags
from search_agent.agents import deep_retrieval, ircot, search_o1, search_r1
from search_agent.types import Completion, FinishReason
from tests.unit.core.grammars import regex_of

lines = (
    st.text(min_size=1, max_size=90)
    .map(lambda text: re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f<>]", "", text)).strip())
    .filter(lambda text: re.match(r"[0-9A-Za-zÀ-ɏ\u0400-\u04ff\u4e00-\u9fff]", text))
)
unquoted = lines.filter(lambda text: not re.search(r'["\\]', text))
boolean = st.tuples(st.sampled_from(["", "(", "(("]), unquoted).map("".join)


@given(sentence=lines, enough=st.booleans())
def test_ircot_reads_back_what_it_writes(sentence: str, enough: bool) -> None:
    move = ircot.Move(sentence, enough)
    assert ircot.parse_move(ircot.render_move(move)) == move
    assert regex_of(ircot.move_grammar()).fullmatch(ircot.render_move(move))


@given(thought=lines, said=lines)
def test_search_r1_reads_back_what_it_writes(thought: str, said: str) -> None:
    for move in (search_r1.Move(said), search_r1.Move(answer=said)):
        text = search_r1.render_move(thought, move)
        assert search_r1.parse_move(text) == move
        assert regex_of(search_r1.move_grammar(may_search=True)).fullmatch(text)
        assert bool(regex_of(search_r1.move_grammar(may_search=False)).fullmatch(text)) == bool(move.answer)


@given(thought=lines, query=lines)
def test_search_o1_reads_back_what_it_writes(thought: str, query: str) -> None:
    for move in (search_o1.Move(query), search_o1.Move()):
        text = search_o1.render_move(thought, move)
        assert search_o1.parse_move(text) == move
        assert regex_of(search_o1.move_grammar()).fullmatch(text)


def test_a_digest_may_say_that_there_is_nothing() -> None:
    assert regex_of(search_o1.digest_grammar()).fullmatch(search_o1.NOTHING)


@given(thought=lines, query=boolean)
def test_deep_retrieval_reads_back_what_it_writes(thought: str, query: str) -> None:
    text = deep_retrieval.render_rewriting(thought, query)
    assert deep_retrieval.parse_rewriting(text) == (query, "")
    assert regex_of(deep_retrieval.rewriting_grammar()).fullmatch(text)


@given(st.data())
@settings(max_examples=50)
def test_what_the_grammars_allow_is_parsed_without_error(data: st.DataObject) -> None:
    def text(grammar: str) -> str:
        return data.draw(st.from_regex(regex_of(grammar), fullmatch=True))

    move = ircot.parse_move(text(ircot.move_grammar()))
    assert move.valid
    assert not move.error
    may_search = data.draw(st.booleans())
    action = search_r1.parse_move(text(search_r1.move_grammar(may_search)))
    assert not action.error
    assert action.answer or (action.query and may_search)
    assert not search_o1.parse_move(text(search_o1.move_grammar())).error
    assert tags.one_line(text(search_o1.digest_grammar()))
    query, error = deep_retrieval.parse_rewriting(text(deep_retrieval.rewriting_grammar()))
    assert query
    assert not error


SCRAPS = [
    '{"query": "x"}', "[1", '"', "\\", "{", "True", "\n", "<SEARCH>", "</Search>", "語", "Answer:", "**answer** :",
    search_o1.BEGIN_QUERY, search_o1.END_QUERY, search_o1.BEGIN_RESULT, search_o1.END_RESULT,
]  # fmt: skip
NAMES = ("think", "search", "answer", "sentence", "enough", "information")
pieces = st.sampled_from([f"<{slash}{tag}>" for tag in NAMES for slash in ("", "/")] + SCRAPS)


def read_all(text: str) -> None:
    move = ircot.parse_move(text)
    assert move.valid or move.error
    assert len(move.sentence) <= tags.MAX_QUERY_CHARS
    action = search_r1.parse_move(text)
    assert sum(map(bool, (action.query, action.answer, action.error))) == 1
    search = search_o1.parse_move(text)
    assert not (search.query and search.error)
    query, error = deep_retrieval.parse_rewriting(text)
    assert bool(query) != bool(error)
    for found in (move.sentence, action.query, search.query, query):
        assert len(found) <= tags.MAX_QUERY_CHARS
        found.encode("utf-8")
    assert tags.answer_line(text) or not text.strip()
    for stops in (ircot.STOPS, search_r1.STOPS, search_o1.STOPS, deep_retrieval.STOPS):
        assert tags.completed_text(Completion(text), stops).startswith(text)


@given(st.lists(st.one_of(st.text(max_size=200), pieces), max_size=30).map("".join))
@example('<answer>{"query": "\\ud800"}</answer>')
def test_any_text_is_read(text: str) -> None:
    read_all(text)


@pytest.mark.parametrize(
    "text",
    [
        *(piece * 20_000 for piece in ["<think>", "<search>", "<sentence>", "<answer>", search_o1.BEGIN_QUERY]),
        "<think>" * 10_000 + "</think>" * 10_000,
        "<think></think>" * 10_000,
        "<answer>" + "[" * 100_000 + "</answer>",
        "Answer:\n" * 20_000,
        "\n" * 100_000 + "*" * 100_000 + "answer",
        "Answer:" + " *_" * 50_000,
        "Answer: " * 20_000,
    ],
)
def test_long_texts_are_read_in_a_moment(text: str) -> None:
    started = time.process_time()  # other processes do not count
    read_all(text)
    assert time.process_time() - started < 2


@given(st.integers(0, 2**32), pieces)
@settings(max_examples=30)
def test_100_kb_of_noise(seed: int, piece: str) -> None:
    words = random.Random(seed).choices([piece, "<answer>", "</think>", "\x00", "語", "Answer:", " ", "\n"], k=25_000)
    read_all("".join(words)[:100_000])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("He was born in 1745.\nAnswer: 1745", "1745"),
        ("a\n**Answer:** Paris\n", "Paris"),
        ("a\n  answer : Paris. \nThat is all.", "Paris."),
        ("Answer: first\nOn second thought\nAnswer: second", "second"),
        ("Answer:\n\nParis", "Paris"),
        ("Answer: Paris\nAnswer:", "Paris"),
        ("The answer: it is Paris", "The answer: it is Paris"),
        ("It is Paris.", "It is Paris."),
        ("Answer:", "Answer:"),
        ("", ""),
    ],
)
def test_the_answer_line(text: str, answer: str) -> None:
    assert tags.answer_line(text) == answer


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ('<answer>{"query": "((a OR b) AND \\"c d\\")"}</answer>', '((a OR b) AND "c d")'),
        ("<think><answer>no</answer></think><answer>plain words</answer>", "plain words"),
        ('<answer>{"query": ["first", "second"]}</answer>', "first"),
    ],
)
def test_rewritten_queries(text: str, query: str) -> None:
    assert deep_retrieval.parse_rewriting(text) == (query, "")


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<think>a <search>no</search></think> <search> who\nis it </search>", search_r1.Move("who is it")),
        ("<search>a</search><answer>b</answer>", search_r1.Move("a")),
        ("<answer> b </answer><search>a</search>", search_r1.Move(answer="b")),
        ("<search> </search>", search_r1.Move(error="search is empty")),
        ("<search>never closed", search_r1.Move(error="neither a search nor an answer")),
    ],
)
def test_search_r1_takes_the_first_action(text: str, move: search_r1.Move) -> None:
    assert search_r1.parse_move(text) == move


@pytest.mark.parametrize(
    ("parse", "text", "error"),
    [
        (ircot.parse_move, "<sentence>It is so.</sentence>", "neither True nor False"),
        (ircot.parse_move, "<enough>False</enough>", "no sentence"),
        (search_o1.parse_move, "I wonder <|begin_search_query|>who", "begun and not ended"),
        (search_o1.parse_move, "<|begin_search_query|> <|end_search_query|>", "is empty"),
    ],
)
def test_what_is_malformed_is_told(parse: Callable[[str], ircot.Move], text: str, error: str) -> None:
    assert error in parse(text).error


@pytest.mark.parametrize(
    ("written", "stops", "text"),
    [
        ("a <search>who", search_r1.STOPS, "a <search>who</search>"),
        ("a <answer>me", search_r1.STOPS, "a <answer>me</answer>"),
        ("<search>who</search> <answer>", search_r1.STOPS, "<search>who</search> <answer></answer>"),
        ("<query>who", search_r1.STOPS, "<query>who"),
        ("a <|begin_search_query|>who", search_o1.STOPS, "a <|begin_search_query|>who<|end_search_query|>"),
    ],
)
def test_the_stop_string_comes_back(written: str, stops: tuple[str, ...], text: str) -> None:
    assert tags.completed_text(Completion(written), stops) == text
    assert tags.completed_text(Completion(written, FinishReason.LENGTH), stops) == written
