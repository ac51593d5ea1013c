"""The operations as methods, for both clients at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from search_agent_client import operations
from search_agent_client.requests import Request, Stream

if TYPE_CHECKING:
    from search_agent_client.client import AsyncClient, Client

P = ParamSpec("P")
T = TypeVar("T")


class Call(Generic[P, T]):
    """An operation as a method: `Client` returns its answer, `AsyncClient` an awaitable of it."""

    def __init__(self, operation: Callable[P, Request[T]]) -> None:
        self.operation, self.__doc__ = operation, operation.__doc__

    @overload
    def __get__(self, client: Client, owner: object = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: object = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: object = None) -> Self: ...
    def __get__(self, client: Any, owner: object = None) -> Any:
        return self if client is None else _bound(self.operation, client.send)


class Events(Generic[P, T]):
    """A streaming operation as a method: `Client` returns a generator, `AsyncClient` an asynchronous one.

    Close a generator that you leave early (`contextlib.closing`, `aclosing`): that ends the gateway's work.
    """

    def __init__(self, operation: Callable[P, Stream[T]]) -> None:
        self.operation, self.__doc__ = operation, operation.__doc__

    @overload
    def __get__(self, client: Client, owner: object = None) -> Callable[P, Generator[T, None, None]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: object = None) -> Callable[P, AsyncGenerator[T, None]]: ...
    @overload
    def __get__(self, client: None, owner: object = None) -> Self: ...
    def __get__(self, client: Any, owner: object = None) -> Any:
        return self if client is None else _bound(self.operation, client.stream)


def _bound(operation: Callable[..., Any], carry: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return carry(operation(*args, **kwargs))

    return update_wrapper(call, operation)


class Api:
    """The methods of both clients. Each raises GatewayError."""

    search = Call(operations.search)
    answer = Call(operations.answer)
    stream_answer = Events(operations.stream_answer)
    retrieve = Call(operations.retrieve)
    methods = Call(operations.methods)
    indexes = Call(operations.indexes)
    index = Call(operations.index)
    create_index = Call(operations.create_index)
    delete_index = Call(operations.delete_index)
    change_passages = Call(operations.change_passages)
    index_change = Call(operations.index_change)
    rollback_index = Call(operations.rollback_index)
    cache = Call(operations.cache)
    clear_cache = Call(operations.clear_cache)
    runs = Call(operations.runs)
    run = Call(operations.run)
    start_run = Call(operations.start_run)
    cancel_run = Call(operations.cancel_run)
    resume_run = Call(operations.resume_run)
    watch_run = Events(operations.watch_run)
    promote = Events(operations.promote)
    rollback = Call(operations.rollback)
    keys = Call(operations.keys)
    create_key = Call(operations.create_key)
    revoke_key = Call(operations.revoke_key)
    readiness = Call(operations.readiness)
