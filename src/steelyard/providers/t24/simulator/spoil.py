"""Turns a good answer into one that fails."""

import gzip
from dataclasses import replace

from steelyard.providers.t24.simulator.answers import Reply, failure_reply
from steelyard.providers.t24.simulator.faults import Fault, PlannedFault

_HTML = {"Content-Type": "text/html; charset=utf-8"}
_TOO_LARGE = 2_000_000


def spoiled(reply: Reply, planned: PlannedFault) -> Reply:
    """Return what a fault makes of an answer; its delay stays."""
    if planned.fault is Fault.SLOW:
        return replace(reply, delay_s=reply.delay_s + planned.wait_s)
    made = _on_the_way(reply, planned) or _other_answer(planned)
    return replace(made, delay_s=reply.delay_s) if made is not None else reply


def _on_the_way(reply: Reply, planned: PlannedFault) -> Reply | None:
    """The right answer, spoiled between there and here."""
    match planned.fault:
        case Fault.RESET:
            return Reply(is_reset=True)
        case Fault.HANG:
            return Reply(is_hanging=True)
        case Fault.DRIBBLE:
            return replace(reply, gap_s=planned.wait_s)
        case Fault.TRUNCATE:
            return replace(reply, cut_at=len(reply.body) // 2)
        case Fault.CUT_JSON:
            return replace(reply, body=reply.body[: len(reply.body) // 2])
        case Fault.WRONG_TYPE:
            return replace(reply, headers={"Content-Type": "text/plain"})
        case Fault.COMPRESSED:
            headers = {**reply.headers, "Content-Encoding": "gzip"}
            return replace(reply, headers=headers, body=gzip.compress(reply.body, mtime=0))
        case Fault.TOO_LARGE:
            return replace(reply, body=reply.body + b" " * _TOO_LARGE)
        case Fault.EMPTY:
            return replace(reply, body=b"")
        case _:
            return None


def _other_answer(planned: PlannedFault) -> Reply | None:
    wait = {"Retry-After": str(round(planned.wait_s))}
    match planned.fault:
        case Fault.HTML_PAGE:
            return Reply(502, _HTML, b"<html><h1>Bad Gateway</h1></html>")
        case Fault.REDIRECT:
            return Reply(302, {"Location": "http://127.0.0.1:9/elsewhere"})
        case Fault.STATUS_500:
            return failure_reply(500, "EB-SYSTEM", "System")
        case Fault.STATUS_503:
            return Reply(503, _HTML, b"<html>busy</html>")
        case Fault.STATUS_418:
            return Reply(418)
        case Fault.RATE_LIMIT:
            return Reply(429, wait)
        case Fault.UNAUTHORISED:
            return Reply(401)
        case Fault.FORBIDDEN:
            return Reply(403)
        case Fault.REFUSED:
            return failure_reply(400, "EB-BUSINESS", "Business")
        case Fault.MAINTENANCE:
            return Reply(503, {**_HTML, **wait}, b"<html>closed for maintenance</html>")
        case _:
            return None
