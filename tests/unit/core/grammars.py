"""Turns a grammar into a regular expression, to compare it with what is rendered and parsed."""

import json
import re

GBNF_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\w+|\{[^}]*\}|[()|?*+]')


def regex_of(grammar: str) -> re.Pattern[str]:
    """Returns the grammar as one expression: it has no recursion, so its rules can be substituted into one another."""
    rules = dict(line.split(" ::= ") for line in grammar.splitlines())

    def translate(body: str) -> str:
        out = ""
        for token in GBNF_TOKEN.findall(body):
            if token[0] == '"':
                out += re.escape(json.loads(token))
            elif token[0] in "[{()|?*+":
                out += token
            else:
                out += f"(?:{translate(rules[token])})"
        return out

    return re.compile(translate(rules["root"]))
