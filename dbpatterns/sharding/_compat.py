"""The only module of the package that touches private names of Django; each says when it can go."""

__all__ = ["ReturnedByInsert"]


class ReturnedByInsert:
    """A field whose value the INSERT makes and returns, as an AutoField's.

    `Field.db_returning` (5.2 to 6.1) is Django's own name for it. Can go when a value that
    `pre_save` makes an expression is read back, as one assigned to the attribute is since 6.0.
    """

    db_returning = True
