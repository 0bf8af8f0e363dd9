"""Whatever the order in which messages arrive, one node gets a name, and none is refused a name that nobody holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rtcflow.cluster.claims import LIVE, YIELDED, Claims, Outcome


class Net:
    """Nodes that want one name, and NATS between them: a subscription counts at once, messages take their time.

    Each node has one question out at most. All who subscribe get it, and only the first answer to it is read.
    """

    def __init__(self, names):
        self.claims = {name: Claims(name) for name in names}
        self.subscribed = set()
        self.outcomes = {}
        self.question = dict.fromkeys(names, 0)
        self.later = {name: [] for name in names}
        self.mail = []

    def begin(self, name):
        assert self.claims[name].begin("x")
        self.subscribed.add(name)
        self.ask(name)

    def ask(self, name):
        self.question[name] += 1
        others = self.subscribed - {name}
        if not others:
            self.answer(name, self.question[name], None)
        for other in sorted(others):
            self.mail.append(("ask", other, name, self.question[name]))

    def answer(self, name, question, what):
        self.mail.append(("answer", name, what, question))

    def settle(self, name, answer):
        for other, question in self.later[name]:
            self.answer(other, question, answer)
        self.later[name].clear()

    def leave(self, name):
        """Give up, or release."""
        self.question[name] += 1  # nobody reads the answer any more
        self.outcomes.setdefault(name, None)
        self.claims[name].release("x")
        self.subscribed.discard(name)
        self.settle(name, YIELDED)

    def deliver(self, index):
        kind, name, what, question = self.mail.pop(index % len(self.mail))
        if kind == "ask":
            answer = self.claims[name].asked("x", what)
            if answer is None:
                self.later[name].append((what, question))
                return
            if answer == YIELDED:
                self.subscribed.discard(name)
                self.settle(name, YIELDED)
            self.answer(what, question, answer)
        elif question == self.question[name]:
            match self.claims[name].answered("x", what):
                case Outcome.WON:
                    self.outcomes[name] = Outcome.WON
                    self.settle(name, LIVE + name.encode())
                case Outcome.LOST:
                    self.leave(name)
                    self.outcomes[name] = Outcome.LOST
                case Outcome.AGAIN:
                    self.ask(name)
                case Outcome.ANEW:
                    self.subscribed.add(name)
                    self.ask(name)
        assert sum("x" in claims for claims in self.claims.values()) <= 1


def run(number, order, leaving):
    net = Net("abcde"[:number])
    waiting = list(net.claims)
    leavers = []
    for step in order:
        if waiting and step % 3 == 0:
            leavers.append(waiting.pop(step % len(waiting)))
            net.begin(leavers[-1])
        elif leaving and leavers and step % 7 == 1:
            net.leave(leavers.pop(step % len(leavers)))
        elif net.mail:
            net.deliver(step)
    for name in waiting:
        net.begin(name)
    for _ in range(2000):
        if not net.mail:
            break
        net.deliver(0)
    assert not net.mail
    assert len(net.outcomes) == number, "a node waits for ever"
    return net


ORDER = st.lists(st.integers(0, 100), max_size=200)


@given(st.integers(2, 5), ORDER)
def test_exactly_one_wins(number, order):
    outcomes = list(run(number, order, leaving=False).outcomes.values())
    assert outcomes.count(Outcome.WON) == 1


@given(st.integers(2, 5), ORDER)
def test_a_name_is_refused_only_while_somebody_holds_it(number, order):
    """Nodes give up, or give the name back, at any moment: somebody else gets it, and nobody waits for ever."""
    outcomes = list(run(number, order, leaving=True).outcomes.values())
    assert Outcome.WON in outcomes or Outcome.LOST not in outcomes


def test_the_answers():
    claims = Claims("b")
    assert claims.asked("x", "a") == YIELDED
    assert claims.begin("x")
    assert not claims.begin("x")
    assert claims.asked("x", "c") is None  # when it knows
    assert claims.asked("x", "a") == YIELDED
    assert claims.answered("x", YIELDED) is Outcome.AGAIN
    assert claims.answered("x", None) is Outcome.ANEW  # it has stepped aside for one that gave up
    assert "x" not in claims
    assert claims.answered("x", None) is Outcome.WON
    assert claims.asked("x", "a") == b"live b"
    assert "x" in claims
    claims.release("x")
    claims.begin("x")
    assert claims.answered("x", b"live a") is Outcome.LOST
