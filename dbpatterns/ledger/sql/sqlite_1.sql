-- SQLite checks row by row and defers nothing but foreign keys, so that the two entries of a
-- transfer sum to zero is left to the service, and to verify_ledger.
CREATE TRIGGER dbpatterns_ledger_entries_stay BEFORE UPDATE ON dbpatterns_ledger_entry
BEGIN
    SELECT RAISE(ABORT, 'the ledger does not update rows of dbpatterns_ledger_entry');
END;

CREATE TRIGGER dbpatterns_ledger_entries_remain BEFORE DELETE ON dbpatterns_ledger_entry
BEGIN
    SELECT RAISE(ABORT, 'the ledger does not delete rows of dbpatterns_ledger_entry');
END;

-- A pending transfer ends once, its entries first; nothing else of it ever changes.
CREATE TRIGGER dbpatterns_ledger_transfers_stay BEFORE UPDATE ON dbpatterns_ledger_transfer
WHEN NOT (
    OLD.status = 'pending' AND NEW.status <> 'pending' AND NEW.ended_at IS NOT NULL
    AND (NEW.id, NEW.source_id, NEW.destination_id, NEW.amount, NEW.currency)
        = (OLD.id, OLD.source_id, OLD.destination_id, OLD.amount, OLD.currency)
    AND (NEW.reference, NEW.idempotency_key, NEW.created_at)
        = (OLD.reference, OLD.idempotency_key, OLD.created_at)
    AND NEW.reverses_id IS OLD.reverses_id AND NEW.expires_at IS OLD.expires_at
    AND NEW.posted_amount = (
        SELECT coalesce(sum(amount), 0) FROM dbpatterns_ledger_entry
        WHERE transfer_id = OLD.id AND account_id = OLD.destination_id
    )
)
BEGIN
    SELECT RAISE(ABORT, 'the ledger does not update rows of dbpatterns_ledger_transfer');
END;

CREATE TRIGGER dbpatterns_ledger_transfers_remain BEFORE DELETE ON dbpatterns_ledger_transfer
BEGIN
    SELECT RAISE(ABORT, 'the ledger does not delete rows of dbpatterns_ledger_transfer');
END;

CREATE TRIGGER dbpatterns_ledger_accounts_begin BEFORE INSERT ON dbpatterns_ledger_account
WHEN NEW.balance <> 0 OR NEW.version <> 0 OR NEW.pending_debits <> 0 OR NEW.pending_credits <> 0
BEGIN
    SELECT RAISE(ABORT, 'the money of an account changes by transfers only');
END;

CREATE TRIGGER dbpatterns_ledger_accounts_move BEFORE UPDATE ON dbpatterns_ledger_account
WHEN NEW.version < OLD.version OR NEW.currency <> OLD.currency
    OR NEW.balance <> OLD.balance AND NEW.version = OLD.version
BEGIN
    SELECT RAISE(ABORT, 'the money of an account changes by transfers only');
END;
