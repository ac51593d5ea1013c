"""Parts of grammars in GBNF, llama.cpp's notation, that the protocols share. Lengths are in characters."""

from __future__ import annotations

import json

# A letter or digit of any script, so that no line is blank; then what is no tag and no new line and, in JSON, nothing
# that needs escaping. Two habits of xgrammar 0.2.3, and so of vLLM: a negated class with more than ASCII crashes it,
# and where anything but a class is repeated so often, each token takes it 70 ms and more instead of 0.03.
_FIRST = r"first ::= [0-9A-Za-z\u00C0-\u167F\u1681-\u1FFF\u2070-\u2FFF\u3001-\uD7FF]"
_CHAR = r"[^<>\x00-\x1F\x7F]"
_JSON_CHAR = r'[^"\\<>\x00-\x1F\x7F]'


def literal(text: str) -> str:
    """The text itself."""
    return json.dumps(text, ensure_ascii=False)


def line(name: str, chars: int) -> str:
    """The rule `name`: a line of at most `chars`, neither blank nor with a tag in it."""
    return f"{name} ::= first {_CHAR}{{0,{chars - 1}}}"


def query(name: str, chars: int, before: str = "") -> str:
    """The rule `name`: what `tags.render_query` writes of text without quotes and backslashes.

    `before` may stand before the first letter or digit.
    """
    start, end = literal('{"query": "'), literal('"}')
    return f"{name} ::= {start} {before and before + ' '}first {_JSON_CHAR}{{0,{chars - 1}}} {end}"


def grammar(root: str, *rules: str) -> str:
    """The whole grammar, with what `line` and `query` refer to where they are used."""
    text = "\n".join([f"root ::= {root}", *rules])
    return f"{text}\n{_FIRST}" if " first " in text else text
