"""Whatever the order in which messages arrive, exactly one node gets a name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtcflow.cluster.claims import FIRST, LIVE, YIELDED, Claims, Outcome


class Net:
    """Nodes that want one name, and NATS between them: a subscription ends at once, messages take their time."""

    def __init__(self, names):
        self.claims = {name: Claims(name) for name in names}
        self.subscribed = set()
        self.outcomes = {}
        self.mail = []

    def begin(self, name):
        assert self.claims[name].begin("x")
        self.subscribed.add(name)
        self.ask(name)

    def ask(self, name):
        others = self.subscribed - {name}
        if not others:
            self.mail.append(("answer", name, None))
        for other in sorted(others):
            self.mail.append(("ask", other, name))

    def deliver(self, index):
        kind, name, what = self.mail.pop(index % len(self.mail))
        if kind == "ask":
            answer = self.claims[name].asked("x", what)
            if answer == YIELDED:
                self.subscribed.discard(name)
            self.mail.append(("answer", what, answer))
        elif name not in self.outcomes:
            # Only the first answer counts, as in a request of NATS.
            self.mail = [m for m in self.mail if not (m[0] == "answer" and m[1] == name)]
            self.mail = [m for m in self.mail if not (m[0] == "ask" and m[2] == name)] + [
                # what is on its way is still answered; nobody reads it
                ("ask", m[1], f"{name}")
                for m in self.mail
                if m[0] == "ask" and m[2] == name and False
            ]
            outcome = self.claims[name].answered("x", what)
            if outcome is Outcome.AGAIN:
                self.ask(name)
            else:
                self.outcomes[name] = outcome
                if outcome is Outcome.LOST:
                    self.claims[name].release("x")
                    self.subscribed.discard(name)


@given(st.integers(2, 5), st.lists(st.integers(0, 100), max_size=200))
def test_exactly_one_wins(number, order):
    net = Net("abcde"[:number])
    waiting = list(net.claims)
    for step in order:
        if waiting and step % 3 == 0:
            net.begin(waiting.pop(step % len(waiting)))
        elif net.mail:
            net.deliver(step)
    for name in waiting:
        net.begin(name)
    for _ in range(1000):
        if not net.mail:
            break
        net.deliver(0)
    assert len(net.outcomes) == number
    assert list(net.outcomes.values()).count(Outcome.WON) == 1


def test_the_answers():
    claims = Claims("b")
    assert claims.asked("x", "a") == YIELDED
    assert claims.begin("x")
    assert not claims.begin("x")
    assert claims.asked("x", "c") == FIRST
    assert claims.asked("x", "a") == YIELDED
    assert claims.answered("x", None) is Outcome.LOST  # it has yielded meanwhile
    claims.release("x")
    claims.begin("x")
    assert claims.answered("x", YIELDED) is Outcome.AGAIN
    assert claims.answered("x", None) is Outcome.WON
    assert claims.asked("x", "a") == LIVE
    assert "x" in claims
