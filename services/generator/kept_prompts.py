"""Token ids of prompts, kept so that only the new text of a dialogue that goes on is tokenized."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from common.control_tokens import ChatTokenizer
from search_agent.types import Message

FOR_EACH_REQUEST = 4  # at once: a dialogue searches between its turns, and prompts of others come meanwhile


class KeptPrompts:
    """Turns messages into ids. Not for two threads at once.

    A searcher's turns continue one assistant message. Its new text is tokenized by itself, as in training, so that the
    ids of earlier turns stay as the model has read them. The `most` dialogues that were asked about last are kept, but
    none of more than `longest` tokens, which no model here would read.
    """

    def __init__(self, chat: ChatTokenizer, most: int, longest: int) -> None:
        self._chat, self._most, self._longest = chat, most, longest
        self._kept: OrderedDict[tuple[Message, ...], tuple[str, array[int]]] = OrderedDict()
        self._can_continue = _continues(chat)

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Returns the ids of a prompt. Raises ValueError for messages that the template refuses."""
        if not self._can_continue:
            return self._chat.chat(messages)
        before, said = tuple(messages), ""
        if messages[-1].role == "assistant":
            before, said = tuple(messages[:-1]), messages[-1].content
        kept, ids = self._kept.get(before, ("", None))
        if ids is None or not said.startswith(kept):
            ids = array("I", self._chat.chat(messages))
        elif said != kept:
            ids = ids + array("I", self._chat.text(said[len(kept) :]))
        if len(ids) <= self._longest:
            self._kept[before] = said, ids
            self._kept.move_to_end(before)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return ids.tolist()


def _continues(chat: ChatTokenizer) -> bool:
    """Tells whether the template only appends what an assistant message goes on with, and no token joins the two."""
    asked, said = Message("user", "Who?"), "<a>[1]</a>\nSome words"
    try:
        whole = chat.chat([asked, Message("assistant", said)])
        return whole == chat.chat([asked]) + chat.text(said)
    except ValueError:  # a template may refuse an assistant message
        return False
