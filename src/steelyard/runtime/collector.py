"""Sets Python's garbage collector for a server: it looks at what requests leave behind, not at the program.

Imported modules, routes and schemas are some hundred thousand objects that live as long as the process. Each
full collection looks at all of them and finds nothing: 70 to 200 ms in which nobody is answered, every other
second under load. Requests leave hardly any rings of references; all else is freed at once without it.
"""

import gc
from typing import Final

THRESHOLDS: Final = (10_000, 20, 10)
"""New objects before the youngest are looked at, and how often that before older ones are; Python's own: 700, 10, 10."""


def spare_what_stays() -> None:
    """Collect once, and from now on look neither at what is alive now nor as often as by default.

    Call it when everything is open and before the first request. Calling it again is harmless.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
