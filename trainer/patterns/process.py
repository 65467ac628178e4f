"""Matches an untrusted regular expression in a separate process, which `trainer.patterns.matching` starts.

Even compiling an expression can take unlimited time (nested repetitions), and the library has no time limit for it.
"""

import json
import resource
import sys

CPU_SECONDS = 1
MEMORY_BYTES = 256 * 1024**2
WRONG_PATTERN, TOO_COSTLY = 3, 4


def main() -> int:
    """Read {"pattern", "texts", "whole"} as JSON. Write the indices of the matching texts, or the syntax error.

    The kernel ends the process by SIGXCPU or SIGKILL when its CPU time is up.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import regex

    request = json.load(sys.stdin)
    try:
        compiled = regex.compile(request["pattern"])
        match = compiled.fullmatch if request["whole"] else compiled.search
        json.dump([index for index, text in enumerate(request["texts"]) if match(text)], sys.stdout)
    except regex.error as error:
        print(error)
        return WRONG_PATTERN
    except (MemoryError, RecursionError, OverflowError):
        return TOO_COSTLY
    return 0


if __name__ == "__main__":
    sys.exit(main())
