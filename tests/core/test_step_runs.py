from msgspec.structs import replace

from core.objects import binding, step_run
from exeunt.rules.step_runs import belongs_to, owner_of, step_runs_to_delete
from exeunt.run import bobrapet
from exeunt.run.models import OwnerReference, StepRun, TransportBinding
from exeunt.run.snapshot import StepRunRef

LISTEN = StepRunRef("call-listen", "uid-call-listen")


def to_delete(*objects: StepRun | TransportBinding) -> tuple[StepRunRef, ...]:
    step_runs = [one for one in objects if isinstance(one, StepRun)]
    bindings = [one for one in objects if isinstance(one, TransportBinding)]
    return step_runs_to_delete("uid-call", step_runs, bindings)


def test_the_owner_decides_and_without_one_the_name() -> None:
    assert belongs_to(owner_of(step_run(owner="uid-call")), "uid-call")
    assert belongs_to(owner_of(step_run(owner=None)), "uid-call")
    assert not belongs_to(owner_of(step_run(owner="uid-of-the-call-before")), "uid-call")


def test_owners_of_other_kinds_decide_nothing() -> None:
    made = step_run(owner=None)
    engram = OwnerReference(kind="Engram", name="stt", uid="uid-stt")
    assert owner_of(replace(made, metadata=replace(made.metadata, owner_references=[engram]))) is None


def test_live_step_runs_of_the_run_have_to_go() -> None:
    assert to_delete(step_run()) == (LISTEN,)
    assert to_delete(step_run(owner=None, phase=None)) == (LISTEN,)
    assert to_delete(step_run(owner="uid-of-the-call-before")) == ()
    assert to_delete(step_run(deleting=True)) == ()


def test_a_terminal_step_run_has_to_go_only_with_a_live_binding() -> None:
    for phase in sorted(bobrapet.TERMINAL_PHASES):
        done = step_run(phase=phase)
        assert to_delete(done) == ()
        assert to_delete(done, binding(owner=LISTEN)) == (LISTEN,)
        assert to_delete(done, binding(owner=LISTEN, deleting=True)) == ()
        assert to_delete(done, binding(owner=LISTEN, run_uid="uid-of-the-call-before")) == ()
        assert to_delete(done, binding(owner=LISTEN, run_uid=None)) == ()
        assert to_delete(done, binding(owner=StepRunRef("call-speak", "uid-call-speak"))) == ()
