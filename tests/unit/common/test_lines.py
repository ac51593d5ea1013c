"""Lines and Server-Sent Events, however their bytes are cut."""

import json

from hypothesis import given
from hypothesis import strategies as st

from common.lines import EventStream, whole

SPLIT_BY_OTHERS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


def test_only_a_line_feed_ends_a_line() -> None:
    text = f"a{SPLIT_BY_OTHERS}b\nc\r\nd"
    assert whole(text.encode()) == ([f"a{SPLIT_BY_OTHERS}b".encode(), b"c"], b"d")
    assert whole(b"") == ([], b"")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SPLIT_BY_OTHERS))), st.data())
def test_events_do_not_depend_on_how_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    sent = "".join(f"event: e\ndata: {json.dumps(text, ensure_ascii=False)}\n\n" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    stream = EventStream()
    chunks = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    found = [event for chunk in chunks for event in stream.feed(chunk)]
    assert [(name, json.loads(text)) for name, text in found] == [("e", text) for text in texts]


def test_event_fields() -> None:
    sent = b": comment\nid: 1\ndata:two\r\ndata: lines\r\n\r\nevent: empty\n\ndata: x\n\ndata: unfinished\n"
    assert list(EventStream().feed(sent)) == [("", "two\nlines"), ("", "x")]
