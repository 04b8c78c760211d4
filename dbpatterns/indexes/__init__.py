"""The index advisor: which indexes the queries ask for, proved without making anybody wait.

    advice = advise(recording.statements, using="default")
    print(advice.proposals[0].as_code())

Needs sqlglot (`pip install "django-dbpatterns[advisor]"`); nothing is written to the database.
"""

from dbpatterns.indexes.advisor import Advice, Confidence, Proposal, advise

__all__ = ["Advice", "Confidence", "Proposal", "advise"]
