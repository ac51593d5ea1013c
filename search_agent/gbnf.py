"""Parts that the protocols' grammars share, in GBNF (llama.cpp's notation). Lengths are in characters."""

from __future__ import annotations

import json

LINE_CHARS = 128  # longest line and query; with longer ones, xgrammar 0.2.3 takes 13 ms a token, not 0.1 ms

# A line begins with a letter or digit of any script, so that none is blank. The other characters exclude tags, new
# lines and, in JSON, whatever needs escaping. xgrammar, which vLLM waits for, has two more limits: a negated class with
# non-ASCII characters crashes it, and repeating anything but a class that often costs 70 ms a token.
_FIRST = r"first ::= [0-9A-Za-z\u00C0-\u167F\u1681-\u1FFF\u2070-\u2FFF\u3001-\uD7FF]"
_CHAR = r"[^<>\x00-\x1F\x7F]"
_JSON_CHAR = r'[^"\\<>\x00-\x1F\x7F]'

# The rule `line`: neither blank nor with a tag in it.
LINE = f"line ::= first {_CHAR}{{0,{LINE_CHARS - 1}}}"


def literal(text: str) -> str:
    """Returns the rule that matches the text itself."""
    return json.dumps(text, ensure_ascii=False)


def query(before: str = "") -> str:
    """Returns the rule `query`, which matches `tags.render_query` of texts without quotes and backslashes.

    `before` may stand before the first letter or digit.
    """
    start, end = literal('{"query": "'), literal('"}')
    return f"query ::= {start} {before and before + ' '}first {_JSON_CHAR}{{0,{LINE_CHARS - 1}}} {end}"


def grammar(root: str, *rules: str) -> str:
    """Returns the grammar, with the rules that `LINE` and `query` refer to if they are used."""
    text = "\n".join([f"root ::= {root}", *rules])
    return f"{text}\n{_FIRST}" if " first " in text else text
