"""What can go wrong with jobs."""

from collections.abc import Mapping, Sequence

from steelyard.core.errors import Retry, SteelyardError


class UnknownKind(SteelyardError):
    """There is no such kind of job."""

    code = "unknown_job_kind"

    def __init__(self, *, name: str, known: Sequence[str]) -> None:
        self.name, self.known = name[:60], tuple(sorted(known))
        super().__init__(
            f"there is no kind of job {self.name!r}; nothing was queued. Known: {', '.join(self.known)}"
        )

    def fields(self) -> Mapping[str, object]:
        return {"kind": self.name, "known": list(self.known)}


class LeaseLost(SteelyardError):
    """A worker no longer holds its job: another has it, or it was cancelled. What it was about to write is not written."""

    code = "lease_lost"

    def __init__(self, *, run: int) -> None:
        self.run = run
        super().__init__(
            f"this worker no longer holds the job of run {run}; what it was about to write was not written"
        )


class JobTimeout(SteelyardError):
    """An attempt took longer than its kind may."""

    code = "job_timeout"
    retry = Retry.LATER

    def __init__(self, *, kind: str, timeout_s: float) -> None:
        self.kind, self.timeout_s = kind, timeout_s
        super().__init__(f"{kind} took longer than {timeout_s:g} s and was stopped")


class NotDead(SteelyardError):
    """Only a dead letter can be tried again."""

    code = "run_not_dead"

    def __init__(self, *, run: int, state: str) -> None:
        self.run, self.state = run, state
        super().__init__(
            f"run {run} is {state} and no dead letter; nothing was changed. Ask for a new run instead"
        )

    def fields(self) -> Mapping[str, object]:
        return {"run": str(self.run), "state": self.state}


class JobEngineUnusable(SteelyardError):
    """The engine of jobs cannot be used here."""

    code = "job_engine_unusable"

    def __init__(self, *, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"jobs cannot run on procrastinate: {problem}. "
            "Set STEELYARD_JOB_ENGINE=in_process to run them without it"
        )
