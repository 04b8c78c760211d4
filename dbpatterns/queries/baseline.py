"""The baseline: a file of the findings there are today, so that only new ones count.

freeze("nplusone.json", report)
with guard(mode="raise", baseline="nplusone.json"):
    ...
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from dbpatterns.errors import ConfigurationError
from dbpatterns.queries.report import Finding

__all__ = ["freeze", "known_findings"]

_VERSION = 1
FilePath = str | os.PathLike[str]


def freeze(path: FilePath, findings: Iterable[Finding]) -> int:
    """Write the findings to a file, sorted and one a line for a readable diff; return how many.

    Line numbers are left out: a finding is its subject, file and function.
    """
    found = {each.fingerprint: each for each in findings}
    entries = [
        {"finding": key, "at": f"{each.place.path} in {each.place.function}", "fix": each.fix}
        for key, each in sorted(found.items())
    ]
    lines = ",\n".join(f"    {json.dumps(each, ensure_ascii=False)}" for each in entries)
    body = f'{{\n  "version": {_VERSION},\n  "findings": [\n{lines}\n  ]\n}}\n'
    Path(path).write_text(body, encoding="utf-8")
    return len(found)


def known_findings(path: FilePath) -> frozenset[str]:
    """Return the fingerprints of a baseline.

    Raises: ConfigurationError: there is no such file, or it is none of ours.
    """
    advice = "Make it with freeze(), or with pytest --nplusone-freeze."
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"There is no baseline {os.fspath(path)!r}. {advice}") from error
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"The baseline {path!r} cannot be read: {error}. {advice}"
        ) from error
    try:
        if content["version"] != _VERSION:
            raise ValueError(f"its version is {content['version']!r}, not {_VERSION}")
        known = frozenset(each["finding"] for each in content["findings"])
        if not all(isinstance(each, str) for each in known):
            raise ValueError("a finding is no text")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The baseline {os.fspath(path)!r} is none of ours: {error}. {advice}"
        ) from error
    return known
