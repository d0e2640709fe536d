"""`homed job-evaluate`: the expression on standard input, the answer as JSON on standard output."""

import json
import sys
from typing import Any

from homed.jobs.tasks.evaluation import bounds
from homed.jobs.tasks.evaluation.bounds import InvalidError, LimitError
from homed.jobs.tasks.evaluation.confinement import confine
from homed.jobs.tasks.evaluation.evaluator import Evaluator

_LONGEST = 64 * 1024
_LONGEST_ANSWER = 1 << 20


def main() -> int:
    """0 and `{"result": …}`, or 1 and `{"code": …, "error": …}`: EXPRESSION_INVALID, LIMIT_EXCEEDED."""
    # Python parses deep nesting on its own stack; what walks it here is bounded by the evaluator.
    sys.setrecursionlimit(5000)
    data = sys.stdin.buffer.read(_LONGEST + 1)
    confine()
    answer = run(data)
    sys.stdout.write(answer)
    sys.stdout.flush()
    return 0 if answer.startswith('{"result"') else 1


def run(data: bytes) -> str:
    try:
        if len(data) > _LONGEST:
            raise LimitError(f"it is longer than {_LONGEST} bytes")
        answer = _json({"result": bounds.plain(Evaluator().evaluate(data.decode()))})
        if len(answer) > _LONGEST_ANSWER:
            raise LimitError(f"the result is longer than {_LONGEST_ANSWER} bytes")
    except (LimitError, MemoryError, RecursionError) as error:
        return _json({"code": "LIMIT_EXCEEDED", "error": str(error) or "it takes more memory than it may"})
    except InvalidError as error:
        return _json({"code": "EXPRESSION_INVALID", "error": bounds.whole(str(error)[:1000])})
    except Exception as error:  # noqa: BLE001  whatever an operation of Python raises is the expression's error
        return _json({"code": "EXPRESSION_INVALID", "error": bounds.whole(f"{type(error).__name__}: {error}"[:1000])})
    return answer


def _json(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))
