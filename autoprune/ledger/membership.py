"""The controllers of one study on a database server: they take turns, know who of them lives, and one of them leads.

The leader delivers the winner. All three are locks of the server, which a death sets free: the lead, the turn, and one
lock per controller that says that it lives.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from autoprune.errors import LedgerUnwritable, RunIsLive
from autoprune.ledger import server
from autoprune.ledger.database import shown
from autoprune.ledger.server import Disconnected, Session
from autoprune.ledger.tables import Tables

T = TypeVar("T")

LEAD, MEMBERS = "lead", "controllers"  # notes of the study: who leads, who was there when the last one came
GRACE_S = 60.0  # after the server was away: the others may not have noticed yet that their locks are gone
LONG_S = 60.0  # to wait for a turn without a word


def new_name() -> str:
    """A controller's name, used by nobody else on any machine."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Membership:
    """One controller's place among those of its study.

    Args:
        session: Its connection.
        study: Name of the study.
        me: Name of the controller.

    Attributes:
        say: Told what the user should know.
        leads: Whether this controller has the lead.

    Raises:
        RunIsLive: If a controller of that name lives.
    """

    def __init__(self, session: Session, study: str, me: str) -> None:
        self.me, self.leads = me, False
        self.say: Callable[[str], None] = lambda text: None
        self._tables: Tables | None = None
        self._session, self._study = session, study
        if not session.lock(self._life(me), server.PATIENCE_S):
            raise RunIsLive(f"study '{study}': a controller '{me}' lives already in '{shown(session.url)}'")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else of the controllers reads or writes meanwhile."""
        waited = 0.0
        while not self._session.lock(f"{self._study}\nturn", 5.0):
            waited += 5.0
            if waited == LONG_S:
                self.say(f"study '{self._study}': another controller has had its turn for {LONG_S:.0f} s; waiting")
        try:
            yield
        finally:
            self._session.unlock(f"{self._study}\nturn")

    def lives(self, name: str) -> bool:
        """Whether that controller lives, as far as one can know; within a turn."""
        if name == self.me or time.monotonic() - self._session.back_at < GRACE_S:
            return True
        if not name or not self._session.lock(self._life(name)):
            return bool(name)
        self._session.unlock(self._life(name))
        return False

    def others(self, tables: Tables) -> list[str]:
        """Who else has signed in the study and lives; within a turn."""
        return [name for name in tables.read_note(MEMBERS) or () if name != self.me and self.lives(name)]

    def sign(self, tables: Tables) -> None:
        """Write who is here in the study; within a turn."""
        tables.note(MEMBERS, [*self.others(tables), self.me])
        if self.leads:
            tables.note(LEAD, self.me)
        self._tables = tables

    def lead(self) -> bool:
        """Take the lead if nobody has it; whether this controller has it now."""
        if not self.leads and self._session.lock(self._study):
            self.leads = True
        return self.leads

    def leader(self) -> str:
        """Who had the lead last."""
        return str(self._tables.read_note(LEAD) or "") if self._tables else ""

    def steady(self, act: Callable[[], T]) -> T:
        """`act`, again and again until the connection held; it must be of the kind that may be repeated.

        Raises:
            LedgerUnwritable: If the server does not come back.
            RunIsLive: If it does, but somebody else has taken the lead.
        """
        while True:
            try:
                return act()
            except Disconnected:
                self._come_back()

    def _come_back(self) -> None:
        while True:
            self._session.reconnect(self.say)
            with contextlib.suppress(Disconnected):
                self._retake(self._life(self.me), lambda: True)
                if self.leads:
                    self._retake(self._study, lambda: self.leader() == self.me)
                self.say(f"study '{self._study}': connected again")
                return

    def _retake(self, name: str, mine: Callable[[], bool]) -> None:
        """Take a lock again that may still belong to the connection that was lost: the server has its own time."""
        give_up = time.monotonic() + server.PATIENCE_S
        while not self._session.lock(name):
            where = shown(self._session.url)
            if not mine():
                self.leads = False
                self._session.release()
                text = f"another controller has taken over in '{where}'; stop it, or wait"
                raise RunIsLive(f"study '{self._study}': {text}")
            if time.monotonic() > give_up:
                text = f"study '{self._study}': '{where}' still keeps the lock of a lost connection; resume in a minute"
                raise LedgerUnwritable(text)
            time.sleep(0.02)

    def _life(self, name: str) -> str:
        return f"{self._study}\nlives\n{name}"
