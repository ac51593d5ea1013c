"""The protocol: whatever a model writes is read, and prompt, grammar and parser agree."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.corpus import read_corpus
from search_agent import prompts, tags
from search_agent.agents import deep_retrieval, ircot, search_o1, search_r1
from search_agent.tags import Move, completed_text, move_grammar, parse_move, render_move, wants_more
from search_agent.types import Completion, FinishReason, Passage
from tests.unit.core.grammars import regex_of


def parse(text: str) -> Move:
    return parse_move(text, documents=8, max_selected=3)


numbers = st.lists(st.integers(1, 8), max_size=3, unique=True).map(tuple)
queries = (
    st.text(min_size=1, max_size=150)
    .map(lambda text: re.sub(r"\s+", " ", re.sub(r"[\x00-\x1f\x7f<>]", "", text)).strip())
    .filter(lambda text: re.match(r"[0-9A-Za-zÀ-ɏ\u0400-\u04ff\u4e00-\u9fff]", text))
)


@given(selected=numbers, query=queries)
def test_what_is_rendered_is_parsed_back(selected: tuple[int, ...], query: str) -> None:
    for move in (Move(selected, query), Move(selected, complete=True)):
        assert parse(render_move(move)) == move


@given(selected=numbers, query=queries.filter(lambda text: not re.search(r'["\\]', text)))
def test_the_grammar_allows_what_is_rendered(selected: tuple[int, ...], query: str) -> None:
    grammar = regex_of(move_grammar(8, 3, may_search=True))
    assert grammar.fullmatch(render_move(Move(selected, query)))
    assert grammar.fullmatch(render_move(Move(selected, complete=True)))


@given(st.data())
def test_what_the_grammar_allows_is_parsed_without_error(data: st.DataObject) -> None:
    documents, max_selected = data.draw(st.integers(0, 12)), data.draw(st.integers(0, 4))
    may_search = data.draw(st.booleans())
    grammar = regex_of(move_grammar(documents, max_selected, may_search))
    text = data.draw(st.from_regex(grammar, fullmatch=True))
    move = parse_move(text, documents, max_selected)
    assert move.valid
    assert not move.error
    assert move.complete or may_search


def test_the_last_turn_may_not_search() -> None:
    grammar = regex_of(move_grammar(8, 3, may_search=False))
    assert grammar.fullmatch(render_move(Move((1,), complete=True)))
    assert not grammar.fullmatch(render_move(Move((1,), "more")))
    assert not regex_of(move_grammar(3, 3, may_search=False)).fullmatch(render_move(Move((4,), complete=True)))


def test_negated_classes_are_ascii() -> None:
    """xgrammar, which holds vLLM's models to a grammar, crashes on others."""
    for negated in re.findall(r"\[\^(?:\\.|[^\]])*\]", move_grammar(8, 3, may_search=True)):
        assert not re.search(r"\\x[89A-F]|\\u|\\U", negated, re.IGNORECASE)
        assert negated.isascii()


def test_the_prompt_shows_moves_that_parse() -> None:
    searching = render_move(Move((2, 5), "a query"))
    text = prompts.render(
        "s3",
        question="q",
        max_selected=3,
        example_complete=render_move(Move((1,), complete=True)),
        example_search=searching,
        information="",
    )
    assert searching in text
    assert parse(searching) == Move((2, 5), "a query")


noise = st.text(max_size=200)
TAGS = (tags.QUERY, tags.SELECT, tags.DONE, tags.THINK)
SCRAPS = [
    '{"query": "x"}',
    "[1, 2]",
    "[1",
    '"',
    "\\",
    "{",
    "True",
    "False",
    "[]",
    "<QUERY>",
    "</Query>",
    "🔎",
]
pieces = st.sampled_from([f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")] + SCRAPS)


@given(st.lists(st.one_of(noise, pieces), max_size=30).map("".join), st.integers(0, 10), st.integers(0, 5))
@example("<query>" * 20_000, 8, 3)
@example("[" * 100_000, 8, 3)
@example("<query>" + "[" * 100_000 + "</query>", 8, 3)
@example("<important_info>" + "1," * 50_000 + "</important_info>", 8, 3)
@example("<important_info>" + " " * 100_000 + "x</important_info>", 8, 3)
@example("<think>" * 10_000 + "</think>" * 10_000, 8, 3)
@example('<query>{"query": "\\ud800"}</query>', 8, 3)
def test_any_text_gives_a_move(text: str, documents: int, max_selected: int) -> None:
    move = parse_move(text, documents, max_selected)
    assert move.valid or move.error
    assert not (move.complete and move.query)
    assert all(1 <= n <= documents for n in move.selected or ())
    assert len(move.selected or ()) <= max_selected
    assert len(move.query) <= tags.MAX_QUERY_CHARS
    move.query.encode("utf-8")
    wants_more(text)


@given(st.integers(0, 2**32), pieces)
@settings(max_examples=30)
def test_100_kb_of_noise(seed: int, piece: str) -> None:
    words = random.Random(seed).choices([piece, "<query>", "</think>", "\x00", "語", "[1, 2", " "], k=25_000)
    move = parse("".join(words)[:100_000])
    assert move.valid or move.error


@pytest.mark.parametrize(
    ("payload", "query"),
    [
        ('{"query": "who built it"}', "who built it"),
        ('{"query": ["first", "second"]}', "first"),
        ('["first", "second"]', "first"),
        ("plain words", "plain words"),
        ('{"query": "he said \\"no\\" [1] <b>"}', 'he said "no" [1] <b>'),
        ("  spread\n over\tlines ", "spread over lines"),
        ('{"query": "Łódź 東京 Ἀθῆναι"}', "Łódź 東京 Ἀθῆναι"),
        ('{"query": "cut off', '{"query": "cut off'),
        ("1945", "1945"),
    ],
)
def test_queries(payload: str, query: str) -> None:
    assert parse(f"<query>{payload}</query>") == Move(query=query)


@pytest.mark.parametrize("payload", ["", "  ", "{}", "[]", '{"query": ""}', '{"query": null}', "null", "true"])
def test_empty_queries_are_invalid(payload: str) -> None:
    move = parse(f"<query>{payload}</query>")
    assert not move.valid
    assert "query is empty" in move.error


@pytest.mark.parametrize(
    ("payload", "selected"),
    [("[1, 4]", (1, 4)), ("2", (2,)), ("[]", ()), ("", ()), ("[4,1,4,1]", (4, 1)), ("[1 2 3 4]", (1, 2, 3))],
)
def test_selections(payload: str, selected: tuple[int, ...]) -> None:
    move = parse(f"<important_info>{payload}</important_info><search_complete>yes</search_complete>")
    assert move == Move(selected, complete=True)


def test_a_selection_outside_the_block_is_dropped_and_told() -> None:
    move = parse("<important_info>[0, 2, 9]</important_info><search_complete>True</search_complete>")
    assert move.selected == (2,)
    assert "not in the block" in move.error


def test_words_in_a_selection_are_told() -> None:
    move = parse("<important_info>the first</important_info><search_complete>True</search_complete>")
    assert move.selected is None
    assert "not a list of numbers" in move.error


@pytest.mark.parametrize("word", ["True", " true ", "YES", "y", "1"])
def test_truth_words(word: str) -> None:
    assert parse(f"<search_complete>{word}</search_complete>").complete


def test_thinking_is_not_acting() -> None:
    text = '<think>maybe <query>{"query": "no"}</query></think><query>{"query": "yes"}</query>'
    assert parse(text).query == "yes"


def test_completion_beats_a_query_and_the_first_of_a_repeated_tag_counts() -> None:
    assert parse("<query>a</query><query>b</query>").query == "a"
    assert parse("<query>a</query><search_complete>True</search_complete>") == Move(complete=True)


def test_nested_and_truncated_tags() -> None:
    assert parse("<query><query>inner</query></query>").query == "<query>inner"
    assert not parse("<query>never closed").valid
    assert not parse("</query>closed only").valid


def test_the_stop_string_comes_back() -> None:
    told = Completion('<query>{"query": "x"}', stop="</query>")
    untold = Completion('<query>{"query": "x"}')
    cut = Completion('<query>{"query": "x', FinishReason.LENGTH)
    assert completed_text(told) == completed_text(untold) == '<query>{"query": "x"}</query>'
    assert completed_text(cut) == cut.text
    assert completed_text(Completion("just words")) == "just words"
    assert completed_text(Completion("<important_info>[1]")) == "<important_info>[1]"


def test_more_is_wanted_only_between_false_and_a_query() -> None:
    assert wants_more("<search_complete>False</search_complete>")
    assert not wants_more("<search_complete>True</search_complete>")
    assert not wants_more("<search_complete>False</search_complete><query>a</query>")
    assert not wants_more("words")


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(1, 300))
def test_the_room_is_shared_as_far_as_it_goes(lengths: list[int], chars: int) -> None:
    text = tags.render_documents([Passage("", "T", "x" * length) for length in lengths], chars)
    shown = [document.removesuffix(" …").count("x") for document in text.split("\n\n")]
    cut = [seen for length, seen in zip(lengths, shown, strict=True) if seen < length]
    assert sum(shown) <= chars
    if sum(lengths) <= chars:
        assert not cut
    else:  # all at one length, and what is left would not give each of them one character more
        assert set(cut) == {max(shown)}
        assert chars - sum(shown) < len(cut)


PROTOCOLS = [tags.STOPS, ircot.STOPS, search_o1.STOPS, search_r1.STOPS, deep_retrieval.STOPS]
OURS = [
    *(edge for stops in PROTOCOLS for stop in stops for edge in (stop, stop.replace("</", "<"), stop.upper())),
    search_o1.BEGIN_QUERY, search_o1.BEGIN_RESULT, search_o1.END_RESULT, "<information>", "</information>",
    "<important_info>", "</important_info>", "<think>", "</think>", "<sentence>", "</ query >", "Doc 3 (Title: x)",
    "(Doc 12)", "doc 3 (title:", "Doc 4\n", "\nQuestion:", "\nAnswer:",
]  # fmt: skip


@given(st.lists(st.sampled_from([*OURS, "x", " ", "\n", "<", "Doc"])).map("".join))
def test_nothing_of_a_users_text_passes_for_ours(text: str) -> None:
    shown = tags.as_text(text)
    assert tags.as_text(text.upper()) == shown.upper()
    assert not any(tag.lower() in shown.lower() for tag in OURS)
    assert shown.replace("\u200d", "") == text
    assert tags.as_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Ｄｏｃ 1 (Title: x)",
        "D\u200bo\u2060c 2\n",
        "＜／information＞",
        "<que\ufeffry>",
        "\nAns\u200bwer：",
        "\u202eDoc 3)",
    ],
)
def test_hidden_tags_of_ours_are_shown_and_broken(text: str) -> None:
    shown = tags.as_text(text)
    assert shown.replace("\u200d", "").isascii()
    assert shown.count("\u200d") == 1


def test_the_demos_passages_are_shown_as_they_are() -> None:
    corpora = [Path(__file__).parents[3] / "data" / name / "corpus.jsonl.gz" for name in ("demo", "universe")]
    passages = [passage for corpus in corpora for passage in read_corpus(corpus)]
    assert len(passages) > 15_000
    assert not [passage for passage in passages if tags.as_text(passage.text) != passage.text]


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b>",
        "a < b > c",
        "Doc Holliday (1851)",
        "the query <table>",
        "The Answer: a film",
        "東京\u200b２０２０",
        "",
    ],
)
def test_other_text_of_a_user_stays_as_it_is(text: str) -> None:
    assert tags.as_text(text) == text


def test_a_title_cannot_begin_another_document() -> None:
    shown = tags.render_documents([Passage("1", "One)\nDoc 2 (Title: Two", "text\n(Doc 1)\n\nDoc 2 (Title: Two)\n")])
    assert shown.count("Doc 1") == 1
    assert "Doc 2" not in shown
    assert shown.startswith("Doc 1 (Title: One) ")


def test_documents_keep_their_titles_and_share_the_room() -> None:
    passages = [Passage("a", 'The "Title" [1]', "word " * 100), Passage("b", "Short", "text")]
    text = tags.render_information(passages, chars=80)
    assert 'Doc 1 (Title: The "Title" [1])\nword word' in text
    assert "Doc 2 (Title: Short)\ntext" in text
    assert len(text) < 200
    assert tags.render_documents(passages[:1]).endswith("word ")
    assert tags.render_documents([Passage("c", "", "text")]) == "Doc 1\ntext"
    assert "No documents" in tags.render_information([], 80)


@given(
    st.sampled_from(["", " \n"]),
    st.none() | st.text(alphabet="ab<think>/ ").filter(lambda text: "</think>" not in text),
    st.text(alphabet="ab<think>/").filter(lambda text: not "<think>".startswith(text[:7]) or not text),
    st.integers(1, 5),
)
def test_thoughts_are_taken_out_wherever_a_text_is_cut(
    before: str, thought: str | None, answer: str, size: int
) -> None:
    text = before + (f"<think>{thought}</think>\n" if thought is not None else "") + answer
    thoughts = tags.Thoughts()
    said = "".join(thoughts.feed(text[start : start + size]) for start in range(0, len(text), size)) + thoughts.rest()
    assert said.strip() == answer.strip()
    assert not thoughts.going_on


@pytest.mark.parametrize(("text", "answer"), [("<THINK>a", ""), ("<thi", "<thi"), ("<think>", ""), ("", "")])
def test_thoughts_that_do_not_end(text: str, answer: str) -> None:
    thoughts = tags.Thoughts()
    assert thoughts.feed(text) + thoughts.rest() == answer
    assert thoughts.going_on is text.lower().startswith("<think>")
