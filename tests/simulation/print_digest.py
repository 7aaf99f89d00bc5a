"""Runs a day in a process of its own and prints its number: for days under other hash seeds."""

import json
import sys

from steelyard.runtime.logs import configure_logs
from steelyard.testing.simulated_day.plan import DayPlan
from steelyard.testing.simulated_day.run_day import Staging, run_day

if __name__ == "__main__":
    configure_logs(form="json", level="error")
    order = json.load(sys.stdin)
    sys.stdout.write(run_day(DayPlan(**order["plan"]), Staging(order["url"])).trace.digest)
