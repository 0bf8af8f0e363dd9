"""Runs of Hypothesis' state machines over handlers, alike for all of them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def run_machine(life, backend, *, steps=12):
    """Run a `HandlerLifecycle` on one backend: a quarter of the profile's examples, but 10 at least."""
    machine = type(life.__name__, (life,), {"backend": backend})
    machine.TestCase.settings = settings(
        settings(),
        max_examples=max(10, settings().max_examples // 4),
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    machine.TestCase().runTest()
