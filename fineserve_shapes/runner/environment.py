"""Environment: what is used of Locust's, as types; Locust's own are not checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Event(Protocol):
    """One of Locust's events."""

    def add_listener(self, handler: Callable[..., None]) -> Any:
        """Call the handler whenever it is fired."""

    def fire(self, **arguments: Any) -> None:
        """Call all listeners."""


class Events(Protocol):
    """Those that are listened to or fired."""

    @property
    def request(self) -> Event:
        """A request was answered or failed."""

    @property
    def test_start(self) -> Event:
        """A test starts."""

    @property
    def test_stop(self) -> Event:
        """A test has stopped."""

    @property
    def test_stopping(self) -> Event:
        """A test is about to stop."""

    @property
    def quitting(self) -> Event:
        """The process is about to end."""

    @property
    def quit(self) -> Event:
        """The process ends."""


class Statistics(Protocol):
    """Locust's rows."""

    @property
    def entries(self) -> Mapping[tuple[str, str], Any]:
        """Rows by name and type; one that is asked for is made."""


class Environment(Protocol):
    """A Locust process. runner: a local, master or worker runner. web_ui: None where there is none.

    parsed_options: the command line, which `Values` reads. host: of the server, where --host or the form names one.
    """

    parsed_options: Any
    host: str | None
    process_exit_code: int | None

    @property
    def events(self) -> Events:
        """The process's events."""

    @property
    def stats(self) -> Statistics:
        """The process's statistics."""

    @property
    def runner(self) -> Any:
        """Who starts users and passes messages."""

    @property
    def web_ui(self) -> Any:
        """The pages."""

    @property
    def user_classes(self) -> Sequence[Any]:
        """The locustfile's."""


def host_of_class(environment: Environment) -> str | None:
    """The host that a user class of the locustfile names, where one does."""
    return next((found.host for found in environment.user_classes if found.host), None)
