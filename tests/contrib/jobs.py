"""What the tests' tasks do; plain functions of a module, as every task framework wants them."""

from django.db import connection

__all__ = ["LOOP", "ask", "ask_in_one", "fail_after_a_loop", "leave", "loop", "write_loop"]

LOOP = (1, 2, 3)


def ask(number: int) -> None:
    """Send one statement; the fault is to call it for each number."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 WHERE 1 = %s", [number])


def loop() -> str:
    """An N+1."""
    for number in LOOP:
        ask(number)
    return "done"


def ask_in_one() -> str:
    """The cure."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 WHERE 1 IN (%s, %s, %s)", LOOP)
    return "done"


def fail_after_a_loop() -> None:
    """An N+1, then an error."""
    loop()
    raise ValueError("broken")


def write_loop() -> str:
    """Writes in a loop."""
    with connection.cursor() as cursor:
        for number in LOOP:
            cursor.execute("UPDATE testapp_novel SET title = %s WHERE id = %s", ["new", number])
    return "done"


def leave() -> None:
    """End as a worker does that is told to."""
    raise KeyboardInterrupt
