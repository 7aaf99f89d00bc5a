"""What ends a benchmark early."""

from steelyard.core.errors import SteelyardError


class BenchmarkUnsound(SteelyardError):
    """What was measured is not worth telling: money is missing, or a side did not do its work."""

    code = "benchmark_unsound"

    def __init__(self, *, side: str, problem: str) -> None:
        self.side, self.problem = side, problem
        super().__init__(f"the benchmark is void: {side}: {problem}; no figures are given")

    def fields(self) -> dict[str, object]:
        """Return whose work it was."""
        return {"side": self.side}
