"""Parts of grammars in GBNF, llama.cpp's notation, that the protocols share. Lengths are in characters."""

from __future__ import annotations

import json

LINE_CHARS = 128  # what a line and a query may have: of more, xgrammar 0.2.3 needs 13 ms a token and not 0.1

# A letter or digit of any script, so that no line is blank; then what is no tag and no new line and, in JSON, nothing
# that needs escaping. Two more habits of xgrammar, and so of vLLM, which waits for it: a negated class with more than
# ASCII crashes it, and where anything but a class is repeated so often, each token takes it 70 ms.
_FIRST = r"first ::= [0-9A-Za-z\u00C0-\u167F\u1681-\u1FFF\u2070-\u2FFF\u3001-\uD7FF]"
_CHAR = r"[^<>\x00-\x1F\x7F]"
_JSON_CHAR = r'[^"\\<>\x00-\x1F\x7F]'

# The rule `line`: neither blank nor with a tag in it.
LINE = f"line ::= first {_CHAR}{{0,{LINE_CHARS - 1}}}"


def literal(text: str) -> str:
    """The text itself."""
    return json.dumps(text, ensure_ascii=False)


def query(before: str = "") -> str:
    """The rule `query`: what `tags.render_query` writes of text without quotes and backslashes.

    `before` may stand before the first letter or digit.
    """
    start, end = literal('{"query": "'), literal('"}')
    return f"query ::= {start} {before and before + ' '}first {_JSON_CHAR}{{0,{LINE_CHARS - 1}}} {end}"


def grammar(root: str, *rules: str) -> str:
    """The whole grammar, with what `LINE` and `query` refer to where they are used."""
    text = "\n".join([f"root ::= {root}", *rules])
    return f"{text}\n{_FIRST}" if " first " in text else text
