"""Double-entry accounts: money moves between two rows, in one transaction, exactly once.

Install with "dbpatterns.ledger" in `INSTALLED_APPS`. `transfers` moves money, `batches` moves
much of it at once, `hot_accounts` serves many callers with one commit, and `verification`
proves the books. The tables live in every database that holds accounts: name it by `using`.
"""
