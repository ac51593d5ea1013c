"""A grammar as a regular expression, to compare it with what is rendered and parsed."""

import json
import re

GBNF_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\w+|\{[^}]*\}|[()|?*+]')


def regex_of(grammar: str) -> re.Pattern[str]:
    """The grammar has no recursion, so that its rules can be put into one another until none is left."""
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
