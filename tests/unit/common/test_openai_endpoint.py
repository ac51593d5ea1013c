"""A dialect learns from an endpoint's refusals, and finds the answer in a message."""

import pytest

from common.openai_endpoint import Dialect, answer_of

BODY = {"model": "m", "max_tokens": 8, "temperature": 0}


@pytest.mark.parametrize(
    ("reason", "fitted"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            {"model": "m", "max_completion_tokens": 8, "temperature": 0},
        ),
        ("Unsupported parameter: 'temperature'", {"model": "m", "max_tokens": 8}),
    ],
)
def test_a_refused_parameter_is_renamed_or_left_out(reason: str, fitted: dict[str, object]) -> None:
    dialect = Dialect()
    assert dialect.learn(400, reason, BODY)
    assert dialect.fit(BODY) == fitted
    assert not dialect.learn(400, reason, fitted)  # it has been taken out already
    assert dialect.fit(BODY) == fitted


@pytest.mark.parametrize(
    "reason",
    [
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported.",
        "invalid temperature: only 1 is allowed for this model",
    ],
)
def test_the_only_value_that_an_endpoint_takes_is_sent_before_the_parameter_is_left_out(reason: str) -> None:
    dialect = Dialect()
    assert dialect.learn(400, reason, BODY)
    assert dialect.fit(BODY) == {**BODY, "temperature": 1}
    assert dialect.learn(400, reason, dialect.fit(BODY))
    assert dialect.fit(BODY) == {"model": "m", "max_tokens": 8}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "max_tokens is too large: 9000. This model's context has 8192 tokens."),
        (400, "the model is not supported"),
        (500, "unsupported max_tokens"),
    ],
)
def test_other_refusals_teach_nothing(status: int, reason: str) -> None:
    dialect = Dialect()
    assert not dialect.learn(status, reason, BODY)
    assert dialect.fit(BODY) == BODY


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"content": "Yes"}, "Yes"),
        ({"content": "<think>\nno, or yes\n</think>\n\nYes"}, "Yes"),
        ({"content": "thinking that the template opened</think>Yes"}, "Yes"),
        ({"content": "<think>\ncut off"}, ""),
        ({"content": None, "reasoning_content": "Okay, let me see"}, ""),
        ({"content": [{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "Yes"}]}, "Yes"),
        ({"reasoning_content": "x"}, ""),
    ],
)
def test_thinking_is_not_an_answer(message: dict[str, object], answer: str) -> None:
    assert answer_of(message) == answer
