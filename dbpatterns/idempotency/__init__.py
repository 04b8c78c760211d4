"""Idempotency keys: one key, one effect; whoever asks again gets the stored answer.

Needs `"dbpatterns.idempotency"` in INSTALLED_APPS; the function is `keys.run_once`.
"""
