"""`python -m benchmarks.subject NAME`: set Django up, measure one subject, print JSON rows."""

import json
import sys
from importlib import import_module

import django

if __name__ == "__main__":
    django.setup()
    subject = import_module(f"benchmarks.{sys.argv[1]}")  # imports models, so only now
    print(json.dumps(subject.rows()))
