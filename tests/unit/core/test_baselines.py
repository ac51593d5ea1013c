"""The baseline methods over scripted models: what they search, keep, count, and why they stop."""

import pytest

from search_agent.agents import AGENTS, deep_retrieval, ircot, search_o1, search_r1
from search_agent.errors import BoundaryError, Failure, RetrieverError, SearcherError
from search_agent.testing import EchoGenerator, ListRetriever, ScriptedPolicy
from search_agent.types import (
    Author,
    Completion,
    FinishReason,
    Mode,
    Passage,
    Piece,
    Question,
    Sampling,
    StopReason,
    Trajectory,
)
from search_agent.world import World

PASSAGES = [Passage(f"p{n}", f"Title {n}", f"text {word}") for n, word in enumerate(["zero", "one", "two", "three"])]
ANSWER = Sampling(max_tokens=8)


class Ran:
    """A method that has run over scripted texts, and the fakes it ran on."""

    trajectory: Trajectory

    def __init__(self, method: str, texts: list[str | Completion], answer: str, **params: object) -> None:
        self.agent = AGENTS[method].with_params(params)
        self.policy, self.generator = ScriptedPolicy(texts), EchoGenerator(answer)
        self.retriever = ListRetriever(PASSAGES)
        self.pieces: list[str] = []

    async def play(self) -> None:
        world = World(self.retriever, self.policy, self.generator)
        self.trajectory = await self.agent.play(
            Question("q", "text zero"),
            world,
            ANSWER,
            tell=lambda event: self.pieces.append(event.text) if isinstance(event, Piece) else None,
        )

    @property
    def ids(self) -> list[str]:
        return [passage.id for passage in self.trajectory.passages]

    @property
    def errors(self) -> list[str]:
        return [turn.error for turn in self.trajectory.turns]


async def run(method: str, texts: list[str | Completion], answer: str = "an answer", **params: object) -> Ran:
    ran = Ran(method, texts, answer, **params)
    await ran.play()
    return ran


def long(text: str) -> Completion:
    return Completion(text, prompt_tokens=3500, completion_tokens=100)


# CoT


async def test_cot_tells_the_answer_from_the_reasoning() -> None:
    ran = await run("cot", [], "He came from Warsaw.\nAnswer: 1745", reasoning_tokens=100)
    assert ran.trajectory.answer == "1745"
    assert "".join(ran.pieces).startswith("He came from Warsaw.")
    assert len(ran.pieces) > 2
    assert ran.generator.samplings[0].max_tokens == 108
    assert "step by step" in ran.generator.prompts[0]
    assert '"Answer:"' in ran.generator.prompts[0]
    assert "text zero" in ran.generator.prompts[0]
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert ran.trajectory.usage.searches == 0


async def test_cot_without_an_answer_line_answers_with_all_of_it() -> None:
    assert (await run("cot", [], "It was in 1745.")).trajectory.answer == "It was in 1745."


async def test_other_methods_do_not_look_for_an_answer_line() -> None:
    ran = await run("direct", [], "one\nAnswer: two")
    assert ran.trajectory.answer == "one\nAnswer: two"
    assert ran.generator.samplings == [ANSWER]


# IRCoT


def sentence(text: str, enough: bool = False) -> str:
    return ircot.render_move(ircot.Move(text, enough))


async def test_ircot_searches_with_its_sentences_and_keeps_all() -> None:
    ran = await run("ircot", [sentence("text one"), sentence("text two"), sentence("so", True)], top_k=1)
    assert ran.retriever.queries == ["text zero", "text one", "text two"]
    assert ran.ids == ["p0", "p1", "p2"]
    assert [document.turn for document in ran.trajectory.documents] == [1, 2, 3]
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert ran.trajectory.usage.searches == 3
    assert ran.trajectory.usage.prompt_tokens == 3 * 10 + 20
    assert "".join(span.text for span in ran.policy.calls[2][0]).count("<information>") == 3
    assert ran.policy.calls[0][1].grammar == ircot.move_grammar()
    assert all(f"Title {n}" in ran.generator.prompts[0] for n in range(3))
    assert ran.trajectory.answer == "an answer"


async def test_ircot_has_so_many_rounds() -> None:
    ran = await run("ircot", [sentence("text one")] * 9)
    assert (len(ran.policy.calls), ran.trajectory.usage.searches) == (4, 5)
    assert ran.trajectory.stop_reason is StopReason.MAX_TURNS


async def test_ircot_nudges_after_a_malformed_round() -> None:
    ran = await run("ircot", ["hm", sentence("so", True)])
    assert ran.errors == ["", "no sentence; enough is neither True nor False"]
    assert "not understood" in ran.trajectory.spans[-2].text
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert (await run("ircot", ["hm"] * 4)).trajectory.stop_reason is StopReason.INVALID


# Search-o1


def lacking(query: str) -> str:
    return search_o1.render_move("I must know more", search_o1.Move(query))


async def test_search_o1_keeps_digests() -> None:
    ran = await run("search_o1", [lacking("text one"), "One is so.", lacking("text two"), "Two is so.", "Thus."])
    first, second = ran.trajectory.passages
    assert (first.id, first.title, first.text) == ("digest-1", "text one", "One is so.")
    assert (second.id, second.title, second.text) == ("digest-2", "text two", "Two is so.")
    assert [document.turn for document in ran.trajectory.documents] == [1, 2]
    assert ran.trajectory.turns[0].retrieved[0].id == "p1"
    assert len(ran.trajectory.turns[0].retrieved) == 3
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert ran.trajectory.usage.searches == 2
    assert ran.trajectory.usage.completion_tokens == 5 * 5 + 4
    # the condensing call is a dialogue of its own, told the reasoning and the passages
    (asked,), sampling = ran.policy.calls[3]
    assert "One is so." in asked.text
    assert "Title 2" in asked.text
    assert sampling.grammar == search_o1.digest_grammar()
    # what it said is the environment's in the main dialogue
    assert [span.author for span in ran.trajectory.spans] == [Author.ENVIRONMENT, Author.POLICY] * 3
    assert "<|begin_search_result|>\nOne is so.\n<|end_search_result|>" in ran.trajectory.spans[2].text
    assert "One is so." in ran.generator.prompts[0]


async def test_search_o1_searches_so_often() -> None:
    ran = await run("search_o1", [lacking("text one"), "A digest."] * 9)
    assert ran.trajectory.usage.searches == 4
    assert len(ran.policy.calls) == 8
    assert ran.trajectory.stop_reason is StopReason.MAX_TURNS


@pytest.mark.parametrize("digest", [search_o1.NOTHING, "<think>hm</think> nothing of use was found", " "])
async def test_search_o1_does_not_keep_a_digest_of_nothing(digest: str) -> None:
    ran = await run("search_o1", [lacking("text one"), digest, "Thus."])
    assert ran.ids == []
    assert search_o1.NOTHING in ran.trajectory.spans[2].text
    assert ran.trajectory.turns[0].selected == ()


async def test_search_o1_condenses_nothing_where_nothing_was_found() -> None:
    ran = Ran("search_o1", [lacking("text one"), "Thus."], "")
    ran.retriever = ListRetriever([])
    await ran.play()
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert search_o1.NOTHING in ran.policy.calls[1][0][-1].text


async def test_search_o1_goes_on_after_reasoning_that_was_cut_off() -> None:
    cut = Completion("and then", FinishReason.LENGTH)
    ran = await run("search_o1", [cut, "Thus."])
    assert ran.errors == ["the reasoning was cut off"]
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    ran = await run("search_o1", [cut] * 2, max_turns=2)
    assert ran.trajectory.stop_reason is StopReason.INVALID


# Search-R1


def looking(query: str) -> str:
    return search_r1.render_move("I must know more", search_r1.Move(query))


FOUND = search_r1.render_move("I know", search_r1.Move(answer="it is one"))


async def test_search_r1_gives_its_passages_to_the_generator() -> None:
    ran = await run("search_r1", [looking("text one"), looking("text two"), FOUND], top_k=1)
    assert ran.retriever.queries == ["text one", "text two"]
    assert ran.ids == ["p1", "p2"]
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert ran.trajectory.usage.searches == 2
    assert ran.trajectory.answer == "an answer"
    assert "Title 1" in ran.generator.prompts[0]
    # one assistant message that is continued: all spans after the first
    assert [span.author for span in ran.policy.calls[1][0]] == [Author.ENVIRONMENT, Author.POLICY, Author.ENVIRONMENT]
    assert ran.policy.calls[1][0][2].text.startswith("\n\n<information>\nDoc 1 (Title: Title 1)")


async def test_search_r1_answers_itself_end_to_end() -> None:
    ran = await run("search_r1", [looking("text one"), FOUND], answerer="searcher")
    assert ran.trajectory.answer == "it is one"
    assert ran.pieces == ["it is one"]
    assert ran.generator.prompts == []
    assert ran.trajectory.usage.prompt_tokens == 20
    assert ran.trajectory.usage.searches == 1


async def test_search_r1_must_answer_after_its_last_search_only_if_its_answer_counts() -> None:
    texts: list[str | Completion] = [looking("text one"), looking("text two"), FOUND]
    ran = await run("search_r1", texts, max_turns=2, answerer="searcher")
    assert ran.trajectory.answer == "it is one"
    assert ran.policy.calls[2][1].grammar == search_r1.move_grammar(may_search=False)
    ran = await run("search_r1", texts, max_turns=2)
    assert len(ran.policy.calls) == 2
    assert ran.trajectory.stop_reason is StopReason.MAX_TURNS


async def test_search_r1_that_searches_to_the_end_has_no_answer() -> None:
    ran = await run("search_r1", [looking("text one")] * 3, max_turns=2, answerer="searcher", constrained=False)
    assert ran.trajectory.answer == ""
    assert ran.trajectory.stop_reason is StopReason.MAX_TURNS
    assert ran.trajectory.usage.searches == 2
    assert ran.policy.calls[0][1].stop == ("</search>", "</answer>")


async def test_search_r1_nudges_after_a_malformed_turn() -> None:
    ran = await run("search_r1", ["hm", FOUND])
    assert ran.errors == ["neither a search nor an answer"]
    assert "not understood" in ran.trajectory.spans[-2].text
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert (await run("search_r1", ["hm"] * 4)).trajectory.stop_reason is StopReason.INVALID


# DeepRetrieval


async def test_deep_retrieval_searches_once_with_its_rewriting() -> None:
    ran = await run("deep_retrieval", [deep_retrieval.render_rewriting("so", "(text OR one)")], top_k=2)
    assert ran.retriever.queries == ["(text OR one)"]
    assert len(ran.ids) == 2
    assert ran.trajectory.usage.searches == 1
    assert ran.trajectory.usage.prompt_tokens == 10 + 20
    assert ran.trajectory.stop_reason is StopReason.COMPLETE
    assert ran.agent.params.mode is Mode.BM25
    assert ran.trajectory.answer == "an answer"


async def test_deep_retrieval_that_cannot_be_read_finds_nothing() -> None:
    ran = await run("deep_retrieval", ["<answer>{}</answer>"])
    assert ran.errors == ["the query is empty"]
    assert ran.trajectory.stop_reason is StopReason.INVALID
    assert ran.retriever.queries == ran.ids == []


# All of them

MOVES = {
    "ircot": sentence("text one"),
    "search_o1": lacking("text one"),
    "search_r1": looking("text one"),
    "deep_retrieval": deep_retrieval.render_rewriting("so", "text one"),
}


@pytest.mark.parametrize("method", ["ircot", "search_o1", "search_r1"])
async def test_the_token_budget_ends_an_episode(method: str) -> None:
    ran = await run(method, [long(MOVES[method]), "A digest."])
    assert ran.trajectory.stop_reason is StopReason.BUDGET
    assert ran.trajectory.turns[-1].query == "text one"


@pytest.mark.parametrize("method", MOVES)
async def test_a_free_model_stops_at_the_end_of_its_move(method: str) -> None:
    ran = await run(method, [MOVES[method], "A digest.", *[FOUND] * 9], constrained=False)
    sampling = ran.policy.calls[0][1]
    assert sampling.grammar == ""
    assert sampling.stop
    assert MOVES[method].endswith(sampling.stop[0])
    assert "text one" in ran.retriever.queries


@pytest.mark.parametrize("method", MOVES)
async def test_a_model_that_writes_freely_first_is_held_to_the_grammar_where_it_fails(method: str) -> None:
    empty = {"search_o1": search_o1.BEGIN_QUERY}.get(method, "hm")
    ran = await run(method, [empty, MOVES[method], "A digest.", *[FOUND] * 9], free_first=True)
    (free, how), (again, held) = ran.policy.calls[:2]
    assert free == again
    assert (how.grammar, held.stop) == ("", ())
    assert held.grammar
    assert ran.trajectory.usage.rewritten >= 1
    assert "text one" in ran.retriever.queries


@pytest.mark.parametrize("method", MOVES)
@pytest.mark.parametrize("kind", [RetrieverError, SearcherError])
async def test_a_failure_is_an_error_and_not_a_text(method: str, kind: type[BoundaryError]) -> None:
    class Broken(ListRetriever, ScriptedPolicy):
        async def search(self, *_: object) -> list[tuple[Passage, ...]]:  # type: ignore[override]
            raise kind(Failure.UNAVAILABLE, "down")

        async def complete(self, *_: object) -> Completion:  # type: ignore[override]
            raise kind(Failure.UNAVAILABLE, "down")

    broken, works = Broken([]), kind is SearcherError
    retriever = ListRetriever(PASSAGES) if works else broken
    policy = broken if works else ScriptedPolicy([MOVES[method]])
    with pytest.raises(kind):
        await AGENTS[method].play(Question("q", "q"), World(retriever, policy))


@pytest.mark.parametrize("method", MOVES)
async def test_the_searcher_is_shown_the_form_it_is_held_to(method: str) -> None:
    ran = await run(method, [MOVES[method], "A digest.", *[FOUND] * 9])
    shown = ran.policy.calls[0][0][0].text
    assert "text zero" in shown
    assert "$" not in shown
    examples = {
        "ircot": ("<sentence>", "<enough>True</enough>"),
        "search_o1": ("<|begin_search_query|>", "<|begin_search_result|>"),
        "search_r1": ("<think>", "</search>", "</answer>", "<information>"),
        "deep_retrieval": ("<think>", '<answer>{"query": "'),
    }
    assert all(tag in shown for tag in examples[method])


@pytest.mark.parametrize("method", AGENTS)
def test_every_parameter_has_a_default_that_is_allowed_and_a_type(method: str) -> None:
    agent = AGENTS[method]
    schema = agent.schema()["properties"]
    assert isinstance(schema, dict)
    assert agent.with_params({name: entry["default"] for name, entry in schema.items()}) == agent
    assert all("type" in entry or "enum" in entry for entry in schema.values())
