"""Drive a handler through any legal life, on a live connection, in virtual time.

    class MyBotLife(HandlerLifecycle):
        def make_handler(self):
            return MyBot()

    TestMyBot = MyBotLife.TestCase

pytest and unittest then run it. Hypothesis makes up calls: frames, messages, arguments, barge-in, slowness, errors, and
every kind of end at any point. The invariants below are checked after each step. A failure is shrunk to a short story
and printed as a test that can be pasted.

Strategy: Hypothesis' rules are sync, so the machine holds a way into a loop whose time is virtual and manual: nothing
moves but by a rule. A `Stream` with one slot serves the calls, as in production; the handler is a copy of yours, with a
journal around its methods (`_probe`).

PYTEST_DONT_REWRITE: the sentences in here are the messages, and need no explanation by pytest.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from importlib.util import find_spec
from typing import Any, ClassVar
from unittest import SkipTest

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.control import current_build_context, currently_in_test_context
from hypothesis.database import InMemoryExampleDatabase, MultiplexedDatabase
from hypothesis.errors import Flaky, UnsatisfiedAssumption
from hypothesis.reporting import current_reporter, with_reporter
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ..abc import MediaOffer
from ..connection.connection import Connection
from ..ends import EndCause
from ..exceptions import ApplicationFailed, NegotiationError, NotAuthorized, TooManyConnections
from ..frames import FRAME_SECONDS
from ..handlers.base import AsyncStreamHandler, StreamHandlerBase
from ..handlers.checking import check_handler, copy_handler, has_own_method, has_video
from ..serving.session import CallRequest
from ..stream import Stream
from . import _promises as promises
from . import strategies as rtc
from ._handler_time import HandlerTime, replaced
from ._life import EMITS, START_UPS, Call, Serving, count_tasks, make_item, refused
from ._literals import keys_of, texts_of
from ._memory import remembered
from ._probe import LIMIT_SLACK, Cause, Fault, InjectedError, Journal, probe_copies
from ._real_sockets import RealSockets
from ._room import HANG, HandlerHung, ManualLoop
from ._sharing import refuse_shared_state
from ._story import differs, forgets_nothing, told
from ._workers import PATIENCE
from .clocks import BackendName, VirtualTime

__all__ = ["HandlerLifecycle", "InjectedError"]

logger: logging.Logger = logging.getLogger("rtcflow")

SECONDS = (0.02, 0.01, 0.1, 0.5, 1.0, 6.0)
"""How much time a step lets pass: a frame, half of one, and what handlers and deadlines notice."""

TALKS = (0.1, 0.02, 0.5, 2.0)
"""For how long a caller talks, or is silent."""

# What is usual comes more often than what is not: a call that never connects is told all there is to it in one step.
TIME_LIMITS = st.sampled_from((*6 * (None,), 30.0, 0.5))
MESSAGES = st.sampled_from((*6 * (True,), False))
RARELY = st.sampled_from((*6 * (False,), True))
STARTS = st.sampled_from((*6 * ("works",), *START_UPS))
ALREADY = st.sampled_from((*10 * (None,), "peer left", "closed"))
JSON_TEXTS = ("{}", "[]", "null", "1", '"hello"', "true")
"""Texts that are JSON, most of them other than an object."""

LINES = ("websocket", "telephone") if find_spec("starlette") else ()
"""Transports that need the extra ``server``."""
RESUME = 5.0
"""Seconds for which a call that can be resumed waits for its caller (`Stream(resume=...)`)."""

SHORT_HANG = 3.0
"""Real seconds for which a loop may be held up once that was seen: many runs follow, until the story is short."""

SLOW = ("receive", "emit", "on_message", "on_dtmf", "video_receive", "video_emit")

HOWS = {
    "peer leaves": (EndCause.PEER_LEFT, "the peer left"),
    "link breaks": (EndCause.LINK_BROKE, "the link broke"),
    "closed": (EndCause.CLOSED, "the server closed it"),
    "server shutdown": (EndCause.CLOSED, "the server shut down"),
    "cancelled": (EndCause.CANCELLED, "it was cancelled"),
}
"""How a call ends, beside what its handler does and its time limit."""


def _in_a_call(step: Callable[..., None]) -> Callable[..., None]:
    """Run a step in a call. If no call goes on, a plain call begins first.

    This is not a precondition. Threads decide whether a sync handler's call goes on, and the choices of Hypothesis must
    not depend on threads.
    """

    @wraps(step)
    def rule_body(self: HandlerLifecycle, *given: Any, **arguments: Any) -> None:
        with self._to_the_end_of_the_step():
            if not self._live:
                self.a_call_begins()
            if self._live:
                self._begin_step()
                step(self, *given, **arguments)
                self._settle()

    return rule_body


def _over() -> st.SearchStrategy[str]:
    """The transports of the machine, the first one most often."""

    def choose(life: HandlerLifecycle) -> st.SearchStrategy[str]:
        first, *others = ("memory",) if has_video(life._prototype) else life.transports
        return st.sampled_from((*max(1, 6 * len(others)) * (first,), *others))

    return st.runner().flatmap(choose)


def _resumes() -> st.SearchStrategy[bool]:
    """Whether a call can be resumed; more often if the handler is told of it."""

    def choose(life: HandlerLifecycle) -> st.SearchStrategy[bool]:
        told = [name for name in ("on_suspended", "on_resumed") if has_own_method(life._prototype, name)]
        return st.booleans() if told else RARELY

    return st.runner().flatmap(choose)


def _own(methods: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Those of `methods` that the handler has."""

    def choose(life: HandlerLifecycle) -> st.SearchStrategy[str]:
        return st.sampled_from([name for name in methods if has_own_method(life._prototype, name)])

    return st.runner().flatmap(choose)


def _digits() -> st.SearchStrategy[str]:
    """Keys that a caller presses: any, and those that the handler's methods name."""
    any_key = st.text("0123456789*#", min_size=1, max_size=3)

    def choose(life: HandlerLifecycle) -> st.SearchStrategy[str]:
        known = keys_of(life._prototype)
        return any_key | st.text(known, min_size=1, max_size=3) if known else any_key

    return st.runner().flatmap(choose)


def _texts() -> st.SearchStrategy[list[str]]:
    """Texts that a caller writes: the application's own, and those that the handler's methods name."""

    def choose(life: HandlerLifecycle) -> st.SearchStrategy[list[str]]:
        known = texts_of(life._prototype) if has_own_method(life._prototype, "on_message") else []
        # One time in two, and not as one more of the many kinds of texts.
        either = st.booleans().flatmap(lambda own: st.sampled_from(known) if own else life.texts)
        return st.lists(either if known else life.texts, min_size=1, max_size=5)

    return st.runner().flatmap(choose)


@contextmanager
def _quiet() -> Iterator[None]:
    """Do not log the errors that a step makes a handler raise: there are hundreds of them."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class TimeIsUp(KeyboardInterrupt):
    """Ends a run of Hypothesis; of a kind that it passes on, and does not take for a failure."""


class Budget:
    """How long a run of the machine may take, in real seconds. A story in a test of its own has no such limit.

    Attributes:
        failed: A bug was found, and its story is being made shorter.
        error: What was found last.
        handler: The name of its class.
        examples: How many examples began.
        sockets: For which no loop has waited.
    """

    def __init__(self) -> None:
        self.examples: int = 0
        self.until: float = math.inf
        self.failed: bool = False
        self.error: BaseException | None = None
        self.handler = "your handler"
        self.sockets: RealSockets = RealSockets()

    def begin(self, seconds: float) -> None:
        """A run begins."""
        self.until, self.failed, self.error, self.examples = time.monotonic() + seconds, False, None, 0
        self.sockets = RealSockets()

    def stop(self, error: BaseException) -> None:
        """Something ended a step from outside, as pytest-timeout does: run no further example."""
        self.error, self.until, self.failed = error, 0.0, True

    def found(self, seconds: float) -> None:
        """A step or an invariant has failed; the first failure begins the time in which its story is made shorter."""
        if not self.failed:
            self.until, self.failed = time.monotonic() + seconds, True

    def check(self) -> None:
        """Called before each example.

        Raises:
            TimeIsUp: No more examples.
        """
        if time.monotonic() > self.until:
            raise TimeIsUp
        self.examples += 1


def _bounded(run: Callable[[Any], None], life: type[HandlerLifecycle], budget: Budget) -> Callable[[Any], None]:
    """`runTest` that ends after `HandlerLifecycle.seconds`, or tells the shortest story that was found by then."""

    def play(case: Any, chosen: settings) -> None:
        report = current_reporter()

        def report_failures(text: object) -> None:
            """Hypothesis tells how to reproduce the end of the time, which it takes for a failure."""
            if budget.error is not None or "reproduce this failure" not in str(text):
                report(text)

        try:
            with with_reporter(report_failures):
                run(case)
        except TimeIsUp:
            budget.until = math.inf
            if isinstance(budget.error, Exception):
                case.settings = settings(case.settings, phases=[Phase.reuse])
                with suppress(SkipTest, Flaky):  # nothing is in the database, or the story is another one each time
                    run(case)
            if budget.error is not None:
                raise budget.error from None
            warnings.warn(
                f"{life.__name__} ended early: {budget.examples} of {chosen.max_examples} examples in "
                f"{life.seconds:g} s, all good; give it more time with seconds = math.inf, or ask for fewer examples",
                stacklevel=3,
            )

    @wraps(run)
    def run_test(case: Any) -> None:
        __tracebackhide__ = True
        chosen = case.settings
        if not chosen.derandomize:  # which allows no database
            memory = InMemoryExampleDatabase()
            both = memory if chosen.database is None else MultiplexedDatabase(memory, chosen.database)
            case.settings = settings(chosen, database=both)
        budget.begin(life.seconds)
        try:
            _forgets_its_calls(life)
            play(case, chosen)
        except Flaky as error:
            found = budget.error
            raise (error if found is None else differs(found, life, budget.handler, budget.sockets.told())) from found
        except Exception as error:
            story = told(error, life, budget.handler, budget.sockets.told())
            if story is error:
                raise
            raise story from None
        finally:
            budget.until = math.inf
            case.settings = chosen

    return run_test


def _forgets_its_calls(life: type[HandlerLifecycle]) -> None:
    """See that the second of two equal calls is answered as the first one was, before any story is played."""
    __tracebackhide__ = True
    if life.shared or life.make_handler is HandlerLifecycle.make_handler:
        return
    make = life.__new__(life).make_handler
    if happened := remembered(make, life.backend, life.patience, min(life._hang, SHORT_HANG)):
        raise forgets_nothing(life, type(make()).__name__, happened)


class HandlerLifecycle(RuleBasedStateMachine):
    """A Hypothesis state machine that plays the lives your handler may have; override `make_handler`.

    It checks this for you. `shutdown` is called exactly once. Nothing is called before the context is set, or after
    `shutdown` began. Each method runs one call at a time, and frames come in order. Every queue keeps its bound, and
    the figures add up. Barge-in leaves nothing queued. Every connection has one reason for its end, the one that came
    first, and ends in time. Nothing is sent after the end. No task and no thread is left, the slot is free, and nothing
    that copies share was changed.

    A step that needs a call begins a plain one if no call goes on. Add rules and invariants with Hypothesis' `@rule()`
    and `@invariant()` on methods of your subclass. `handler` is the copy that serves the present call, `connection` its
    connection.

    A run ends when all examples are done, or after `seconds`. Once a bug is found, its story is made shorter for
    at most half as long again. The settings are Hypothesis' with fewer steps (20) and without its explanation of
    failures, because the story explains them. Change them with
    ``MyBotLife.TestCase.settings = settings(MyBotLife.TestCase.settings, max_examples=1000)``.

    Attributes:
        backend: ``"trio"`` or ``"asyncio"``.
        expected_errors: Exceptions that your handler may raise by itself, in its methods or in tasks and callbacks made
            through `handler.loop`; others fail the test.
        shared: Attributes that the copies of your handler share on purpose, and may change: a cache, a room.
        texts: A strategy for messages of the application's own.
        arguments: A strategy for what `set_args` is given.
        custom: Parameters of the application's own in `Context.custom`, beside what is known of each telephone call.
        transports: What calls come over; the first one most often. By default ``"memory"``, and with the extra
            ``server`` also ``"websocket"`` and ``"telephone"``. A handler with video is called over memory only.
        patience: Real seconds for which a thread of the handler may compute or block before time goes on without it.
        seconds: Real seconds after which no new example begins; ``math.inf`` for as long as the examples last.
    """

    backend: ClassVar[BackendName] = "trio"
    expected_errors: ClassVar[tuple[type[BaseException], ...]] = ()
    shared: ClassVar[Collection[str]] = ()
    texts: ClassVar[st.SearchStrategy[str]] = rtc.messages() | st.sampled_from(JSON_TEXTS)
    arguments: ClassVar[st.SearchStrategy[list[Any]]] = rtc.args()
    custom: ClassVar[Mapping[str, str]] = {}
    transports: ClassVar[Sequence[str]] = ("memory", *LINES)
    patience: ClassVar[float] = PATIENCE
    seconds: ClassVar[float] = 12.0
    _hang: ClassVar[float] = HANG
    _budget: ClassVar[Budget]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        phases = [phase for phase in Phase if phase is not Phase.explain]
        cls.TestCase.settings = settings(cls.TestCase.settings, stateful_step_count=20, phases=phases)
        cls._budget = budget = Budget()
        case: Any = cls.TestCase
        case.runTest = _bounded(case.runTest, cls, budget)

    def make_handler(self) -> StreamHandlerBase:
        """Make the handler that you would give to a `Stream`: a new one for each run."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what to test; write:\n"
            "    def make_handler(self):\n"
            "        return MyHandler()"
        )

    def __init__(self) -> None:
        super().__init__()
        if currently_in_test_context() and not current_build_context().is_final:
            self._budget.check()
        prototype = self.make_handler()
        check_handler(prototype)
        self._budget.handler = type(prototype).__name__
        refuse_shared_state(prototype, self.make_handler(), "make_handler()", self.shared)
        refuse_shared_state(prototype, copy_handler(prototype), f"{type(prototype).__qualname__}.copy()", self.shared)
        self.step: int = 0
        self._closed = False
        self.call: Call | None = None
        self._journals: list[Journal] = []
        self._copy_fails = False
        self._authorized = True
        shown = HandlerTime()
        shown.sockets = self._budget.sockets
        self._loop = ManualLoop(self.backend, prototype, patience=self.patience, hang=self._hang, shown=shown)
        self._time = ExitStack()
        self._time.enter_context(replaced(prototype, shown))
        self.clock: VirtualTime = self._loop.clock
        probe_copies(prototype, self._new_journal)
        self._prototype = prototype
        self._threads = promises.threads()
        self._serving: Serving | None = None
        self._serve()
        self._idle_tasks: int = self._call(count_tasks)

    # -- what happens
    # Each rule has at least one argument: the rules with the fewest are what Hypothesis tries first, and most.

    @property
    def handler(self) -> StreamHandlerBase:
        """The copy that serves the present call."""
        assert self.call is not None  # noqa: S101
        return self.call.session.handler

    @property
    def connection(self) -> Connection:
        """The present call's connection."""
        assert self.call is not None  # noqa: S101
        assert self.call.session.connection is not None  # noqa: S101
        return self.call.session.connection

    @initialize(
        time_limit=TIME_LIMITS,
        messages=MESSAGES,
        phone=RARELY,
        start_up=STARTS,
        already=ALREADY,
        over=_over(),
        resumes=_resumes(),
    )
    def the_first_call_begins(
        self,
        *,
        time_limit: float | None = None,
        messages: bool = True,
        phone: bool = False,
        start_up: str = "works",
        already: str | None = None,
        over: str = "memory",
        resumes: bool = False,
    ) -> None:
        """As `a_call_begins`."""
        self.a_call_begins(
            time_limit=time_limit,
            messages=messages,
            phone=phone,
            start_up=start_up,
            already=already,
            over=over,
            resumes=resumes,
        )

    @rule(
        time_limit=TIME_LIMITS,
        messages=MESSAGES,
        phone=RARELY,
        start_up=STARTS,
        already=ALREADY,
        copy_fails_first=RARELY,
        over=_over(),
        resumes=_resumes(),
    )
    def a_call_begins(
        self,
        *,
        time_limit: float | None = None,
        messages: bool = True,
        phone: bool = False,
        start_up: str = "works",
        already: str | None = None,
        copy_fails_first: bool = False,
        over: str = "memory",
        resumes: bool = False,
    ) -> None:
        """Somebody calls, if no call goes on; one that is ending is given the time it needs.

        Args:
            time_limit: Of the stream, in seconds.
            messages: Whether the caller opens a data channel.
            phone: Whether the caller is on a telephone line.
            start_up: It ``"works"``, ``"is slow"`` or ``"raises"``.
            already: The ``"peer left"``, or it was ``"closed"``, before the connection was up; or None.
            copy_fails_first: Another caller came before, and was refused because `copy()` raised.
            over: The transport: ``"memory"``, a page's ``"websocket"``, or the line of a ``"telephone"`` carrier.
                A line is up when its call begins, so no peer has left before.
            resumes: If the link breaks, the call waits for its caller, as with `Stream(resume=...)`. Not on a
                telephone, which cannot come back, and not if the call is over before it is up.
        """
        with self._to_the_end_of_the_step():
            if self._live:
                return
            self._finish_call()
            self._begin_step()
            if self._serving is None or self._serving.time_limit != time_limit:
                self._stop_serving()
                self._serve(time_limit)
            assert self._serving is not None  # noqa: S101
            if copy_fails_first:
                self._copy_fails = True
                try:
                    self._refuse(ApplicationFailed, "copy fails")
                finally:
                    self._copy_fails = False
            video = has_video(self._prototype)
            offer = MediaOffer(receive_video=video, send_video=video, messages=messages and not phone)
            if over != "memory" and already == "peer left":
                already = None
            over = "phone" if phone and over == "memory" else over
            if not has_own_method(self._prototype, "start_up"):
                start_up = "works"
            resumes = resumes and over in {"memory", "websocket"} and already is None
            self.call = call = Call(
                self._prototype,
                self.clock,
                self.shared,
                over=over,
                start_up=start_up,
                resumes=resumes,
                custom=self.custom,
            )
            task = self._loop.start(call.run, self._serving.stream, offer, already, self._newest_journal)
            self._settle()
            if task.done():
                task.result()

    @rule(seconds=st.sampled_from(TALKS))
    @_in_a_call
    def caller_speaks(self, seconds: float = 0.5) -> None:
        """The caller says something: a frame every 20 ms."""
        assert self.call is not None  # noqa: S101
        self._call(partial(self.call.talk, seconds, speech=True))

    @rule(seconds=st.sampled_from(TALKS))
    @_in_a_call
    def caller_is_silent(self, seconds: float = 0.5) -> None:
        """The caller's microphone stays open: a frame every 20 ms, of nearly nothing."""
        assert self.call is not None  # noqa: S101
        self._call(partial(self.call.talk, seconds, speech=False))

    @rule(n=st.sampled_from((1, 2, 10, 60)))
    @_in_a_call
    def audio_arrives(self, n: int = 1) -> None:
        """`n` frames of the caller's audio arrive at this moment: what the network had held up."""
        assert self.call is not None  # noqa: S101
        self._call(self.call.hear, n)

    @rule(n=st.sampled_from((1, 5, 50)))
    @_in_a_call
    def audio_is_lost(self, n: int = 1) -> None:
        """`n` frames of the caller's audio are lost on their way: so much time passes, and their number is left out."""
        assert self.call is not None  # noqa: S101
        self.call.lose(n)
        self._settle(n * FRAME_SECONDS)

    @rule(seconds=st.sampled_from((0.1, 0.0, 1.0)))
    def link_is_replaced(self, seconds: float = 0.1) -> None:
        """The link breaks, and `seconds` later the caller goes on over another, if the call can be resumed."""
        with self._to_the_end_of_the_step():
            if not self._live:
                self.a_call_begins(resumes=True)
            if not self._live or self.call is None or not self.call.resumes:
                return
            self._begin_step()
            call, connection = self.call, self.connection
            resumed = connection.statistics().resumed
            self._call(call.break_link, OSError("the network is gone"))
            self._settle(seconds)
            if connection.end is None:
                self._call(call.come_back)
                self._settle()
            if connection.end is None and connection.statistics().resumed == resumed:
                self._settle(RESUME)  # a method that is told of it takes its time
            if connection.end is None and connection.statistics().resumed == resumed:
                raise AssertionError(f"a call goes on when its caller is back: this one does not, {RESUME:g} s later")

    @precondition(lambda self: has_own_method(self._prototype, "on_dtmf"))
    @rule(digits=_digits())
    @_in_a_call
    def caller_presses(self, digits: str = "1") -> None:
        """The caller presses keys, on a telephone or on a page."""
        assert self.call is not None  # noqa: S101
        self._call(self.call.theirs.press, digits)

    @precondition(lambda self: has_video(self._prototype))
    @rule(n=st.integers(1, 5))
    @_in_a_call
    def pictures_arrive(self, n: int = 1) -> None:
        """`n` frames of the caller's video arrive at this moment."""
        assert self.call is not None  # noqa: S101
        self._call(self.call.see, n)

    @rule(seconds=st.sampled_from(SECONDS))
    def time_passes(self, seconds: float = 0.02) -> None:
        """Time passes, and what is due happens; nothing comes from the caller."""
        with self._to_the_end_of_the_step():
            self._begin_step()
            self._settle(seconds)

    @rule(texts=_texts())
    @_in_a_call
    def caller_writes(self, texts: list[str]) -> None:
        """The caller sends texts on the data channel, if there is one."""
        assert self.call is not None  # noqa: S101
        if self.connection.transport.offer.messages:
            self._call(self.call.say, texts)

    @rule(args=st.runner().flatmap(lambda self: self.arguments))
    @_in_a_call
    def page_posts(self, args: list[Any]) -> None:
        """The page posts arguments."""
        assert self.call is not None  # noqa: S101
        self.call.session.set_input(*args)

    @rule(seconds=st.sampled_from(TALKS))
    @_in_a_call
    def barge_in(self, seconds: float = 0.1) -> None:
        """The caller interrupts, and speaks: `clear_queue` is called, in the middle of whatever is going on."""
        self._call(self._clear_queue)
        assert self.call is not None  # noqa: S101
        self._call(partial(self.call.talk, seconds, speech=True))

    def _clear_queue(self) -> None:
        """What `barge_in` does, in the loop."""
        connection = self.connection
        if connection.end is None and connection.statistics().setup is not None:
            waiting = connection.transport.audio_out.queued_seconds
            dropped = self.handler.clear_queue()
            if isinstance(self._prototype, AsyncStreamHandler):  # a worker thread may put more at the same time
                left = connection.transport.audio_out.queued_seconds
                if left != 0:
                    raise AssertionError(f"clear_queue drops everything queued: {left:g} s were left")
                told = f"clear_queue says what it dropped: {dropped:g} s, not {waiting:g} s"
                if not abs(dropped - waiting) < 1e-9:
                    raise AssertionError(told)

    @rule(method=_own(SLOW), seconds=st.sampled_from(SECONDS))
    @_in_a_call
    def handler_is_slow(self, method: str = "receive", seconds: float = 0.5) -> None:
        """The next call of `method` takes longer."""
        self._arm(method, Fault(delay=seconds))

    @rule(method=_own((*SLOW, "shutdown")))
    @_in_a_call
    def handler_raises(self, method: str = "receive") -> None:
        """The next call of `method` raises."""
        self._arm(method, Fault(error=InjectedError(f"{method} was told to raise")))

    @rule(what=st.sampled_from((*2 * EMITS, *rtc.JUNK)))
    @_in_a_call
    def emit_returns(self, what: str = "audio") -> None:
        """The next call of `emit` returns this."""
        self._arm("emit", Fault(items=(make_item(what, self.handler.output_sample_rate),)))

    @rule(how=st.sampled_from(tuple(HOWS)))
    def call_ends(self, how: str = "peer leaves") -> None:
        """The call ends, if one goes on.

        Args:
            how: ``"peer leaves"``, or ``"link breaks"``, and nobody comes back. ``"closed"`` by the application, from
                another thread. ``"server shutdown"`` of the whole stream. ``"cancelled"`` by the code that runs the
                connection.
        """
        with self._to_the_end_of_the_step():
            if self._live:
                self._begin_step()
                self._end_call(how)

    def _end_call(self, how: str) -> None:
        assert self.call is not None  # noqa: S101
        assert self._serving is not None  # noqa: S101
        if how == "link breaks" and self.call.resumes:
            due = self.clock.now + RESUME
            self.call.journal.causes.append(Cause(due, -1, EndCause.LINK_BROKE, "nobody came back"))
        else:
            self.call.journal.ends(*HOWS[how])
        match how:
            case "peer leaves":
                self._call(self.call.theirs.aclose)
            case "link breaks":
                self._call(self.call.break_link, OSError("the network is gone"))
            case "closed":
                self.call.session.close("enough")
            case "server shutdown":
                self._call(self._serving.stop.set)
            case _:
                self._call(self.call.scope.cancel)
        self._settle(RESUME + 0.1 if how == "link breaks" and self.call.resumes else 0.0)

    @rule(why=st.sampled_from(("the line is busy", "not authorized")))
    @_in_a_call
    def somebody_is_refused(self, why: str = "the line is busy") -> None:
        """A second caller is refused; nothing is disturbed, and no slot is lost."""
        if self._serving is None or self._serving.stop.is_set():
            return
        self._authorized = why != "not authorized"
        try:
            self._refuse(NotAuthorized if why == "not authorized" else TooManyConnections, why)
        finally:
            self._authorized = True

    def _refuse(self, expected: type[NegotiationError], why: str) -> None:
        assert self._serving is not None  # noqa: S101
        stream = self._serving.stream
        before = len(stream.calls)
        refusal = self._call(refused, stream)
        if type(refusal) is not expected:
            raise AssertionError(f"a caller is refused because {why}: {refusal!r}")
        if len(stream.calls) != before:
            raise AssertionError(f"a refusal gives the slot back: {len(stream.calls) - before} more are taken")

    # -- what always holds

    def check(self) -> None:
        """Hold what has happened so far against every promise; called after each step."""
        # No `@invariant()` of Hypothesis, which would print each of them after every line of a story.
        if self.call is not None and not hasattr(self.call, "session"):
            return
        promises.are_kept(self._journals)
        if self.call is not None:
            promises.figures_add_up(self.call)
            promises.one_reason_for_the_end(self.call, self.expected_errors)
        promises.nobody_waits_for_ever(self.clock.stuck)
        promises.shutdown_goes_well(self._journals, self.expected_errors)
        self._see_to_the_end()

    def _see_to_the_end(self) -> None:
        """Closing takes as long as `Timeouts` say at most, and leaves nothing behind."""
        call = self.call
        if call is not None and call.over:
            self._check_nothing_left(call)
            self.call = None
        elif call is not None:
            promises.an_end_in_time(call, self.clock.now)

    def teardown(self) -> None:
        """The last caller hangs up, everything is closed, and nothing is left."""
        error = sys.exc_info()[1]  # Hypothesis calls this while what a step or an invariant raised is on its way
        if isinstance(error, Exception) and not isinstance(error, UnsatisfiedAssumption):
            self._found(error)
        if self._closed:  # the story ended with what was found
            return
        try:
            with _quiet():
                if self._live:
                    self._begin_step()
                    self._end_call("peer leaves")
                self._finish_call()
            promises.are_kept(self._journals)
        except Exception as found:
            self._found(found)
            raise
        finally:
            self._close()

    # -- parts

    @contextmanager
    def _to_the_end_of_the_step(self) -> Iterator[None]:
        """Close everything when a step finds something: what follows in its story, pasted or not, is not run."""
        try:
            with _quiet():
                yield
        except BaseException as error:
            # Hypothesis would take the end of the time for a bug, and look for the shortest story of it.
            if type(error).__name__ == "Failed" and "Timeout" in str(error):
                self._budget.stop(error)
            self._close()
            raise

    def _found(self, error: Exception) -> None:
        if isinstance(error, Flaky):  # what was found before is the story
            return
        self._budget.error = error
        derandomized = type(self).TestCase.settings.derandomize  # its story cannot be told from a database
        self._budget.found((3 if derandomized else 0.5) * type(self).seconds)

    def _finish_call(self) -> None:
        """Give a call that is ending the time it needs."""
        for _ in range(60):
            if self.call is None:
                return
            self._settle(0.5)
        raise AssertionError("a call is over when its time is up: this one goes on")

    @property
    def _live(self) -> bool:
        call = self.call
        return call is not None and call.session.connection is not None and call.session.connection.end is None

    def _begin_step(self) -> None:
        self.step += 1
        for journal in self._journals:
            journal.step = self.step

    def _arm(self, method: str, fault: Fault) -> None:
        if has_own_method(self.handler, method):
            assert self.call is not None  # noqa: S101
            self.call.journal.faults[method].append(fault)

    def _settle(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that can; then look whether all is well, also when a limit is due."""
        until = self.clock.now + seconds
        journal: Journal | None = getattr(self.call, "journal", None)  # from when the call is admitted
        moments = [at + LIMIT_SLACK + 0.01 for at in (journal.limits() if journal is not None else ())]
        for moment in (*sorted(at for at in moments if self.clock.now < at < until), until):
            self._call(self.clock.advance, max(0.0, moment - self.clock.now))
            if self._serving is not None and self._serving.over:
                self._serving = None
            self.check()

    def _new_journal(self) -> Journal:
        if self._copy_fails:
            raise InjectedError("copy was told to raise")
        journal = Journal(lambda: self.clock.now, step=self.step, numbered=True)
        self._journals.append(journal)
        return journal

    def _newest_journal(self) -> Journal:
        return self._journals[-1]

    async def _authorize(self, _: CallRequest) -> bool:
        return self._authorized

    def _serve(self, time_limit: float | None = None) -> None:
        stream = Stream(
            self._prototype,
            modality="audio-video" if has_video(self._prototype) else "audio",
            concurrency_limit=1,
            time_limit=time_limit,
            authorize=self._authorize,
            timeouts=promises.TIMEOUTS,
            resume=RESUME,
        )
        self._serving = Serving(stream, time_limit)
        self._loop.start(self._serving.run)
        self._settle()

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self._call(self._serving.stop.set)
            for _ in range(60):
                self._settle(0.0 if self.call is None else 0.25)
                if self._serving is None:
                    return
            raise AssertionError("a stream ends when it is told to: this one goes on")

    def _check_nothing_left(self, call: Call) -> None:
        promises.nothing_runs_on(call)
        if self._serving is not None:
            promises.everything_is_given_back(self._serving.stream)
            tasks = self._call(count_tasks)
            if tasks != self._idle_tasks:
                raise AssertionError(f"no task is left: there are {tasks - self._idle_tasks} more than before")
        if calls := self.clock.workers.calls():
            raise AssertionError(f"no thread is left in the handler: {calls}")
        promises.no_thread_is_left(self._threads)
        trace = call.traces.left()
        if trace is not None:
            raise AssertionError(f"one call leaves no trace in another: {trace}")

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have something happen in the loop; one that the handler holds up is left behind."""
        try:
            return self._loop.call(function, *args)
        except HandlerHung:
            self._closed = True
            self._time.close()
            type(self)._hang = SHORT_HANG
            raise

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # After a failed check things may be left that would never end by themselves: they are cancelled.
        self.clock.workers.wake(math.inf)
        try:
            self._call(self.clock.run_free)
            self._loop.close()
        finally:
            self._time.close()
